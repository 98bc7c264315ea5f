"""`evergrant compromise`: tokens have leaked. `evergrant erasure …`: what became of a grant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from worker.bootstrap.base import Base
from worker.cli import context
from worker.cli.output import Json, Tenant, out, print_json, print_table
from worker.domain.burial import Selection
from worker.domain.errors import ConfigurationError, NotFoundError
from worker.domain.grant import GrantId
from worker.revocation import Compromise
from worker.revocation.compromise import Response
from worker.store import outbox
from worker.store.tombstones import TombstoneRepository

erasure = typer.Typer(help="What became of grants that were given up.", no_args_is_help=True)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


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
        bool, typer.Option(help="Keep the consents; replace the access tokens at once.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Tokens have leaked: stop handing them out, then revoke or replace them.

    Example: evergrant compromise --api-key crm --since 6h
    """

    async def respond(base: Base) -> Sequence[GrantId]:
        selection = _selection(
            base, tenant=tenant, connection=connection, user=user, since=since, api_key=api_key
        )
        use_case = Compromise(tombstones=_tombstones(base), clock=base.clock, offload=base.offload)
        response = Response.REPLACE if replace else Response.REVOKE
        stopped = await use_case.respond(selection, response, actor=context.operator())
        if not replace:
            base.hints.task("upkeep.revocations")
        return stopped

    if not (yes or as_json or replace):
        typer.confirm("The users concerned have to log in again. Revoke?", abort=True)
    stopped = context.run(respond)
    if as_json:
        print_json({"grants": [str(grant) for grant in stopped], "replaced": replace})
        return
    what = "are replaced now" if replace else "are being revoked"
    out.print(f"{len(stopped)} grants {what}; none of their tokens is handed out any more.")
    if stopped and not replace:
        out.print("What the providers say: evergrant erasure show ID")


@erasure.command()
def show(
    grant_id: Annotated[str, typer.Argument(help="As `compromise --json` printed it.")],
    as_json: Json = False,
) -> None:
    """The receipt: when it ended here, what the provider said, when the keys were destroyed."""
    with context.opened() as base:
        grant = context.grant_of(base, grant_id)
        entries = _tombstones(base).receipt(grant.id)
    if not entries:
        raise NotFoundError(f"grant {grant_id} was never given up; it is {grant.state}")
    rows: list[dict[str, Any]] = [
        {"at": entry.at, "what": entry.verb, "by": entry.actor, **(entry.detail or {})}
        for entry in entries
    ]
    if as_json:
        print_json(rows)
        return
    print_table(rows, ["at", "what", "outcome", "code", "by_hand", "by"], empty="")


def _selection(
    base: Base,
    *,
    tenant: str | None,
    connection: str | None,
    user: str | None,
    since: str | None,
    api_key: str | None,
) -> Selection:
    try:
        return Selection(
            tenant=context.tenant_of(base, tenant),
            connection=connection,
            user_id=user,
            handed_since=None if since is None else _moment(since, base.clock.now()),
            handed_to=api_key,
        )
    except ValueError:
        raise ConfigurationError("say --connection, --user, --since or --api-key") from None


def _moment(text: str, now: datetime) -> datetime:
    """`6h` ago, or an ISO time (UTC unless it says otherwise)."""
    if text[:-1].isdigit() and text[-1] in _UNITS:
        return now - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"--since {text!r}: write 6h, 3d or 2026-11-23T14:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


def _tombstones(base: Base) -> TombstoneRepository:
    return TombstoneRepository(base.engine, base.audit, outbox.add)
