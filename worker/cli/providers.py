"""`evergrant providers …`: the catalogue, and what of it the tenant's connections use."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from worker import settings as _settings
from worker.bootstrap.base import load_entries
from worker.cli import context
from worker.cli.concerns import concerns
from worker.cli.output import (
    EXIT_FAILED,
    Json,
    Tenant,
    cell,
    no_connection,
    out,
    print_facts,
    print_json,
    print_table,
)
from worker.cli.trying import dry_run, really_renew
from worker.domain.errors import NotFoundError
from worker.domain.exchange import ConnectionConfig, to_reopen
from worker.providers.changes import sentence
from worker.providers.schema import configuration_schema
from worker.store.overview import Overview

providers = typer.Typer(help="What is known about each provider.", no_args_is_help=True)


@providers.command("list")
def list_(
    search: Annotated[str, typer.Argument(help="Part of a name or strategy.")] = "",
    as_json: Json = False,
) -> None:
    """Every entry: for which strategies, how it renews, what a refresh does to the old token."""
    catalogue = load_entries(_settings.load())
    rows = [_row(name, msgspec.to_builtins(catalogue[name])) for name in catalogue.names()]
    rows = [row for row in rows if search in f"{row['name']} {row['strategies']}"]
    if as_json:
        print_json(rows)
        return
    columns = ["name", "strategies", "grant", "rotation", "lifetime", "revocation", "as_of"]
    print_table(rows, columns, empty="no such entry")


def _row(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    revoke = entry.get("revoke") or {}
    return {
        "name": name,
        "strategies": " ".join(entry.get("strategies") or []),
        "grant": entry.get("grant", "refresh_token"),
        "rotation": entry.get("rotation", "unknown"),
        "lifetime": (entry.get("lifetimes") or {}).get("access"),
        "revocation": revoke.get("effect", "token") if revoke.get("endpoint") else "by hand",
        "as_of": entry.get("as_of"),
    }


@providers.command("show")
def show(name: str, as_json: Json = False) -> None:
    """One entry, whole, the operator's keys merged in, with what the provider changes and when.

    Example: evergrant providers show hubspot
    """
    catalogue = load_entries(_settings.load())
    if name not in catalogue.names():
        close = difflib.get_close_matches(name, catalogue.names(), n=1)
        meant = f"did you mean {close[0]}?" if close else "`evergrant providers list` names them"
        raise NotFoundError(f"no provider {name!r} in the catalogue; {meant}")
    entry = catalogue[name]
    told = msgspec.to_builtins(entry)
    if as_json:
        print_json(told)
        return
    today = datetime.now(UTC).date()
    told["changes"] = [sentence(change, today) for change in entry.changes]
    print_facts({key: value for key, value in told.items() if not isinstance(value, list | dict)})
    for key, value in told.items():
        for line in _lines(value):
            out.print(f"\n{key.replace('_', ' ')}" if line is None else f"  {line}", markup=False)


def _lines(value: Any) -> Iterator[str | None]:
    """Of a list or a table, a line each; None before the first: its heading."""
    if not isinstance(value, list | dict) or not value:
        return
    yield None
    for name, one in value.items() if isinstance(value, dict) else [("", one) for one in value]:
        yield f"{name}: {_spelled(one)}" if name else f"- {_spelled(one)}"


def _spelled(value: Any) -> str:
    """As the catalogue is written, without its brackets."""
    if isinstance(value, dict):
        return ", ".join(f"{name} = {_spelled(one)}" for name, one in value.items())
    if isinstance(value, list):
        tables = any(isinstance(one, dict) for one in value)
        return (" · " if tables else " ").join(map(_spelled, value))
    return cell(value)


@providers.command("schema")
def schema() -> None:
    """The JSON Schema of evergrant.toml's providers and connections, for your editor.

    Example: evergrant providers schema > evergrant.schema.json
    """
    print_json(configuration_schema())


@providers.command("check")
def check(
    tenant: Tenant = None,
    only_bad: Annotated[bool, typer.Option("--bad", help="Only what is not well.")] = False,
    as_json: Json = False,
) -> None:
    """Which entry serves each known connection, what cannot be renewed and how to mend it.

    Fails if a whole connection cannot be renewed; single grants that cannot are told, no more.
    """
    with context.opened() as base:
        names = [tenant] if tenant else base.settings.tenants
        known = [row for name in names for row in connection_rows(base, name)]
    rows = [row for row in known if row["problem"] or row["concerns"] or not only_bad]
    if as_json:
        print_json(rows)
    else:
        columns = ["tenant", "connection", "strategy", "provider", "grants", "problem"]
        print_table(rows, columns, empty=no_connection(len(known)))
        for row in rows:
            for concern in row["concerns"]:
                out.print(f"{row['connection']}: {concern}", markup=False)
    if any(row["problem"] for row in rows):
        raise typer.Exit(EXIT_FAILED)


def connection_rows(base: Any, tenant: str) -> list[dict[str, Any]]:
    """One row per connection; `problem` says what an operator has to mend, or is empty.

    `concerns`: sentences about grants of it that cannot be renewed, with counts.
    """
    rows = []
    counts, found = Overview(base.engine).grants_by_connection(tenant), concerns(base, tenant)
    for config in base.connections().all(tenant):
        provider = base.catalogue.resolve(config, has_refresh_token=True)
        stopped = config.stopped if config.enabled else None
        problem = stopped or unrenewable(provider) or ""
        if not config.enabled:
            problem = "switched off in evergrant.toml"
        rows.append(
            {
                "tenant": tenant,
                "connection": config.name,
                "strategy": config.strategy,
                "provider": provider.name,
                "grants": counts.get(config.name, 0),
                "problem": problem,
                "stopped": stopped is not None,
                "advice": _advice(base, config, problem),
                "concerns": [
                    one.sentence for one in found.get(config.name, []) if one.told != problem
                ],
            }
        )
    return rows


# findings that the sentence about a connection which cannot be renewed has said already
SAID_ANYWAY = frozenset({"developer_keys", "tokens_not_stored"})


def unrenewable(provider: Any) -> str | None:
    """Why nothing on a connection can be renewed; tokens that never end need not be."""
    entry = provider.kind.entry
    lasts = entry.grant == "none" and "never" in (entry.absent_means, entry.zero_means)
    return None if lasts else provider.not_renewable


def _advice(base: Any, config: ConnectionConfig, problem: str) -> str:
    """Of a stop, and of an entry with nothing to renew; other problems say what mends them."""
    if not problem:
        return ""
    provider = base.catalogue.resolve(config, has_refresh_token=True)
    if problem == config.stopped:
        meant = provider.means(problem).rstrip(".")
        return "; ".join(filter(None, [meant, to_reopen(config.name, problem)]))
    known = base.catalogue[provider.name]
    nothing = " ".join(known.advice) if known.grant == "none" else ""
    return provider.means(problem) or nothing


def _print_tried(answer: dict[str, Any]) -> None:
    """The facts, and below them the request as it would go out."""
    request = {key: answer.pop(key, None) for key in ("method", "url", "headers", "body")}
    print_facts(answer)
    if request["url"] is None:
        return
    out.print(f"\n{request['method']} {request['url']}", markup=False)
    for name, value in request["headers"].items():
        out.print(f"{name}: {value}", markup=False)
    if request["body"]:
        out.print()
    for name, value in request["body"].items():
        out.print(f"{name}={value}", markup=False)


@providers.command("test")
def try_(
    strategy: Annotated[str, typer.Argument(help="Entry or strategy; `providers list`.")],
    *,
    connection: Annotated[str, typer.Option(help="Name of the connection.")],
    tenant: Tenant = None,
    send: Annotated[
        bool, typer.Option("--send", help="Really renew one grant, by a running worker.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for it.")] = 60,
    as_json: Json = False,
) -> None:
    """What a renewal would send on a connection, secrets blanked; with --send, one is made.

    Nothing is sent without --send. With it the grant that is due soonest is brought forward and
    renewed as always: claimed, journaled, committed. No refresh token is spent beside that.

    Example: evergrant providers test bitbucket --connection acme-bitbucket --send
    """
    with context.opened() as base:
        name = context.tenant_of(base, tenant)
        if send:
            answer = really_renew(base, name, connection, strategy, wait=wait)
        else:
            answer = dry_run(base, name, connection, strategy)
    print_json(answer) if as_json else _print_tried(answer)
    if not answer["well"]:
        raise typer.Exit(EXIT_FAILED)
