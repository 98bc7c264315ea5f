"""`evergrant compromise`: tokens have leaked. First what would be done, then it, then what came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from worker.bootstrap.base import Base
from worker.bootstrap.ending import compromise_of
from worker.cli import context
from worker.cli.leak_view import ENDED, print_plan, print_report, print_stopped
from worker.cli.moments import moment
from worker.cli.output import (
    EXIT_FAILED,
    Json,
    Tenant,
    counted,
    err,
    print_json,
)
from worker.domain.burial import Selection
from worker.domain.errors import ConfigurationError, NotFoundError
from worker.revocation import Compromise, Plan, Report, Response
from worker.revocation.compromise import Stopped
from worker.store.api_keys import ApiKeyRepository
from worker.store.concerned import ConcernedRepository

_LOOK_EVERY = 0.5  # seconds


def compromise(
    *,
    tenant: Tenant = None,
    connection: Annotated[str | None, typer.Option(help="All grants of this connection.")] = None,
    user: Annotated[str | None, typer.Option(help="All grants of this user.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only tokens handed out since: 2h, 3d, or an ISO time.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="Only tokens handed to the key of that name.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Keep the consents; replace the access tokens.")
    ] = False,
    include_siblings: Annotated[
        bool,
        typer.Option(
            "--include-siblings", help="Give up, too, what the provider ends together with them."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for what the providers say.")
    ] = 120,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Tokens have leaked: stop handing them out, revoke or replace them, report what came of it.

    What is meant is told first, and nothing is done until you agree. With --json nothing is done
    without --yes. The exit code is 0 only if every token is ended at its provider.

    Examples:
    evergrant compromise --connection google-oauth2 --dry-run
    evergrant compromise --api-key crm --since 6h
    evergrant compromise --user 'google-oauth2|1077' --yes --json
    """
    response = Response.REPLACE if replace else Response.REVOKE
    told: dict[str, Any] = {"response": response, "done": False}

    async def work(base: Base) -> bool:
        selection = _selection(
            base, tenant=tenant, connection=connection, user=user, since=since, api_key=api_key
        )
        use_case = compromise_of(base)
        plan = await use_case.plan(selection)
        told["plan"] = asdict(plan)
        if not as_json:
            print_plan(base, plan, response)
        if not plan.grants or dry_run or (as_json and not yes):
            err.print("nothing was changed" + ("; say --yes to do it" if as_json else ""))
            return True
        _refuse_siblings(plan, response, include_siblings)
        if not yes:
            typer.confirm(_QUESTION[response], abort=True)
        stopped = await use_case.respond(
            selection, response, actor=context.operator(), include_siblings=include_siblings
        )
        _send_to_work(base, plan, response)
        told.update(done=True, at=stopped.at, grants=[str(grant) for grant in stopped.grants])
        if not as_json:
            print_stopped(stopped)
        report = await _watched(use_case, stopped, wait, quiet=as_json)
        told["report"] = asdict(report)
        if not as_json:
            print_report(report)
        return all(line.outcome in ENDED for line in report.lines)

    ended = context.run(work)
    if as_json:
        print_json(told)
    if not ended:
        raise typer.Exit(EXIT_FAILED)


_QUESTION = {
    Response.REVOKE: "The people concerned have to log in again afterwards. Revoke?",
    Response.REPLACE: "The access tokens are withdrawn and replaced. Go on?",
}


def _refuse_siblings(plan: Plan, response: Response, include_siblings: bool) -> None:
    if plan.siblings and response is Response.REVOKE and not include_siblings:
        raise ConfigurationError(
            f"{counted(len(plan.siblings), 'living grant')} besides would end with these: the "
            "provider ends whole consents, or a refresh token is shared. Nothing is done. Say "
            "--include-siblings to give those up too, or --replace to keep the consents",
            code="revocation_too_wide",
        )


def _send_to_work(base: Base, plan: Plan, response: Response) -> None:
    if response is Response.REVOKE:
        base.hints.task("upkeep.revocations")
        return
    for provider in {line.provider for line in plan.lines if line.replaceable}:
        base.hints.renew(provider)


async def _watched(use_case: Compromise, stopped: Stopped, wait: float, *, quiet: bool) -> Report:
    """Until nothing is pending or the time is over; shows how far it is."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    with _bar(len(stopped.grants), quiet=quiet) as show:
        while True:
            report = await use_case.report(stopped)
            show(report)
            if not report.pending or loop.time() >= until:
                return report
            await asyncio.sleep(_LOOK_EVERY)


@contextmanager
def _bar(total: int, *, quiet: bool) -> Iterator[Callable[[Report], None]]:
    columns = (TextColumn("settled"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=err, disable=quiet, transient=True) as bar:
        task = bar.add_task("settled", total=total)
        yield lambda report: bar.update(task, completed=total - report.pending)


def _selection(
    base: Base,
    *,
    tenant: str | None,
    connection: str | None,
    user: str | None,
    since: str | None,
    api_key: str | None,
) -> Selection:
    if all(part is None for part in (connection, user, since, api_key)):
        raise ConfigurationError("say --connection, --user, --since or --api-key")
    name = context.tenant_of(base, tenant)
    _refuse_unknown(base, name, connection=connection, user=user, api_key=api_key)
    return Selection(
        tenant=name,
        connection=connection,
        user_id=user,
        handed_since=None if since is None else moment(since, base.store_now()),
        handed_to=api_key,
    )


def _refuse_unknown(
    base: Base, tenant: str, *, connection: str | None, user: str | None, api_key: str | None
) -> None:
    """A name mistyped during a leak must not read as "nothing has leaked". Raises: NotFoundError.

    What is gone is known still, and so is the name of a revoked key.
    """
    kin = ConcernedRepository(base.engine)
    if connection is not None and not (
        connection in {one.name for one in base.connections().all(tenant)}
        or kin.knows(Selection(tenant=tenant, connection=connection))
    ):
        raise _unknown(f"connection {connection!r} in {tenant}", "connections list")
    if user is not None and not kin.knows(Selection(tenant=tenant, user_id=user)):
        raise _unknown(f"grant of user {user!r} in {tenant}", "grants list")
    if api_key is not None and not (
        api_key in {key.name for key in ApiKeyRepository(base.engine).all()}
        or api_key in {key.name for key in base.settings.api_keys}
        or kin.knows(Selection(tenant=tenant, handed_to=api_key))
    ):
        raise _unknown(f"API key {api_key!r}", "api-keys list")


def _unknown(what: str, where: str) -> NotFoundError:
    told = f"no {what} is known, so nothing was looked for; `evergrant {where}` shows what there is"
    return NotFoundError(told, code="unknown_name")
