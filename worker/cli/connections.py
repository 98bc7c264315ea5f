"""`evergrant connections …`: what stands in a connection's way, and taking it out of the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from worker.bootstrap.base import Base
from worker.cli import context
from worker.cli.output import Json, Tenant, no_connection, out, print_facts, print_json, print_table
from worker.domain.errors import ConfigurationError, NotFoundError, WorkerError
from worker.domain.exchange import ConnectionConfig, to_reopen
from worker.domain.secret import Secret
from worker.store.connection_care import ConnectionCare, ConnectionLine
from worker.sync import explain_problem
from worker.sync.problems import LASTING

connections = typer.Typer(help="Connections: stopped ones, problems, hosts.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the connection, not its con_… id.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@connections.command("list")
def list_(
    tenant: Tenant = None,
    only_bad: Annotated[
        bool, typer.Option("--bad", help="Only those with something wrong.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Every connection, what is wrong with it, and how many users that concerns."""
    with context.opened() as base:
        names = [context.tenant_of(base, tenant)] if tenant else list(base.settings.tenants)
        lines = [line for name in names for line in _care(base).lines(name, now=base.clock.now())]
    rows = [asdict(line) for line in lines if not only_bad or _wrong(line)]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["wrong"] = row["stopped"] or " ".join(row["problems"])
    columns = ["tenant", "name", "strategy", "grants", "users", "approved_host", "wrong"]
    print_table(rows, columns, empty=no_connection(len(lines)))


@connections.command("explain")
def explain(name: Name, tenant: Tenant = None, as_json: Json = False) -> None:
    """One connection: why it is stopped, where its tokens go, what is wrong at Auth0."""
    with context.opened() as base:
        line, config = _both(base, tenant, name)
        told = {**asdict(line), **_endpoint(base, config), "do": list(_advice(base, line, config))}
    told["problems"] = {code: explain_problem(code) for code in line.problems}
    if as_json:
        print_json(told)
        return
    problems, advice = told.pop("problems"), told.pop("do")
    print_facts(told)
    for code, sentence in problems.items():
        out.print(f"\n{code}: {sentence}", markup=False)
    for one in advice:
        out.print(f"→ {one}", markup=False)


@connections.command("reopen")
def reopen(name: Name, tenant: Tenant = None, as_json: Json = False) -> None:
    """Renew through it again, once what had stopped it is mended; held verdicts are given again."""
    with context.opened() as base:
        line, config = _both(base, tenant, name)
        if (today := _endpoint(base, config)["host_today"]) and _moved(line, today):
            raise ConfigurationError(
                f"{name} was approved for {line.approved_host} and names {today} now: look whether "
                f"that is meant, then `evergrant connections approve-host {name} {today}`",
                code="host_changed",
            )
        due = _care(base).reopen(
            line.tenant, name, actor=context.operator(), now=base.clock.now()
        )  # fmt: skip
    _told({"connection": name, "reopened": True, "grants_due": due}, as_json)


@connections.command("approve-host")
def approve_host(
    name: Name,
    host: Annotated[str, typer.Argument(help="The host the connection names today, in full.")],
    tenant: Tenant = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Let refresh tokens and the client secret go to another host than before.

    Only the host that the connection names today can be approved, and it has to be written out:
    whoever can edit a connection at Auth0 could else send the tokens to a host of his own.
    """
    with context.opened() as base:
        line, config = _both(base, tenant, name)
        today = _endpoint(base, config)["host_today"]
        if host != today:
            raise ConfigurationError(
                f"{name} names {today or 'no host that can be told'}, not {host}: nothing is "
                "approved. `evergrant sync connections` reads it anew",
                code="host_not_named",
            )
        if not (yes or as_json):
            told = f"{line.grants} refresh tokens will go to {host} (before: {line.approved_host})."
            typer.confirm(f"{told} Approve?", abort=True)
        due = _care(base).approve_host(
            line.tenant, name, host, actor=context.operator(), now=base.clock.now()
        )  # fmt: skip
    _told(
        {"connection": name, "host": host, "before": line.approved_host, "grants_due": due}, as_json
    )


@connections.command("clear")
def clear(name: Name, tenant: Tenant = None, as_json: Json = False) -> None:
    """Forget what was found wrong with it; what still is shows at the next read."""
    with context.opened() as base:
        line, _ = _both(base, tenant, name)
        codes = _care(base).clear(
            line.tenant, name, actor=context.operator(), now=base.clock.now()
        )  # fmt: skip
    _told({"connection": name, "cleared": list(codes)}, as_json)


def _both(base: Base, tenant: str | None, name: str) -> tuple[ConnectionLine, ConnectionConfig]:
    told = context.tenant_of(base, tenant)
    config = base.connections().get(told, name)
    lines = {line.name: line for line in _care(base).lines(told, now=base.clock.now())}
    if config is None or name not in lines:
        raise NotFoundError(
            f"no connection {name} is known here; `evergrant connections list` shows names. One"
            " that nobody has come through yet, as the doctor names too, is read by"
            " `evergrant sync connections`"
        )
    return lines[name], config


def _endpoint(base: Base, config: ConnectionConfig) -> dict[str, Any]:
    """The entry that serves it, and the host that a refresh would go to today."""
    provider = base.catalogue.resolve(config, has_refresh_token=True)
    told: dict[str, Any] = {"provider": provider.name, "host_today": None}
    told["not_renewable"] = provider.not_renewable
    if provider.not_renewable is None and provider.spends:
        anew = replace(config, approved_host=None)
        try:
            nobody = Secret("no-token")
            told["host_today"] = provider.request(
                anew, subject=nobody, scope=None, now=base.clock.now()
            ).host
        except WorkerError as error:
            told["not_renewable"] = str(error)
    return told


def _advice(base: Base, line: ConnectionLine, config: ConnectionConfig) -> Iterator[str]:
    today = _endpoint(base, config)["host_today"]
    if today and _moved(line, today):
        yield (
            f"its token host changed from {line.approved_host} to {today}; if that is meant: "
            f"evergrant connections approve-host {line.name} {today}"
        )
    elif line.stopped:
        if meant := base.catalogue.resolve(config, has_refresh_token=True).means(line.stopped):
            yield meant
        yield to_reopen(line.name, line.stopped)
    elif line.verdicts_held:
        yield (
            "many refresh tokens were refused at once, so none is given up; if users did withdraw: "
            f"evergrant connections reopen {line.name}"
        )
    if not LASTING.isdisjoint(line.problems):
        yield f"once that is mended: evergrant connections clear {line.name}"
    elif line.problems:
        yield "once that is mended, the next read shows it: evergrant sync connections"


def _moved(line: ConnectionLine, today: str) -> bool:
    return line.approved_host is not None and line.approved_host != today


def _wrong(line: ConnectionLine) -> bool:
    return bool(line.stopped or line.problems or line.verdicts_held)


def _care(base: Base) -> ConnectionCare:
    return ConnectionCare(base.engine, base.audit)


def _told(answer: Mapping[str, Any], as_json: bool) -> None:
    print_json(answer) if as_json else print_facts(answer)
