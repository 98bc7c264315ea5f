"""`evergrant compromise`: tokens have leaked. `evergrant erasure …`: what became of a grant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from worker.bootstrap.base import Base
from worker.cli import context
from worker.cli.one_reading import OneReading
from worker.cli.output import Json, Tenant, out, print_json, print_table
from worker.domain.burial import Selection
from worker.domain.errors import ConfigurationError, NotFoundError
from worker.domain.grant import GrantId
from worker.domain.held import Withheld
from worker.revocation import Compromise
from worker.revocation.compromise import Response
from worker.store import outbox
from worker.store.tombstones import TombstoneRepository
from worker.store.withholding import WithholdingRepository

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


@erasure.command()
def waiting(tenant: Tenant = None, as_json: Json = False) -> None:
    """Users whom Auth0 no longer knows, and who may have been linked to another: you decide.

    Their grants are kept and renewed, and handed to nobody. If you know to whom one was linked,
    pull that user (`evergrant sync users --ids -`); if he is deleted, `evergrant erasure confirm`.
    """
    with context.opened() as base:
        store = WithholdingRepository(base.engine, base.audit, outbox.add)
        names = [context.tenant_of(base, tenant)] if tenant else list(base.settings.tenants)
        rows = [asdict(one) for name in names for one in store.users(name, Withheld.USER_MISSING)]
    if as_json:
        print_json(rows)
        return
    print_table(rows, ["tenant", "user_id", "grants", "since"], empty="nobody waits")


@erasure.command()
def confirm(
    user_id: Annotated[str, typer.Argument(help="As `evergrant erasure waiting` shows it.")],
    tenant: Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Say that a user who waits was deleted: his grants are revoked and erased.

    Auth0 is asked once more; a user whom it knows is not erased.
    """

    async def bury(base: Base) -> Sequence[GrantId]:
        name = context.tenant_of(base, tenant)
        store = WithholdingRepository(base.engine, base.audit, outbox.add)
        if user_id not in {one.user_id for one in store.users(name, Withheld.USER_MISSING)}:
            raise NotFoundError(f"{user_id} does not wait; `evergrant erasure waiting` shows who")
        async with OneReading(base) as reading:
            try:
                await reading.puller.read(name, user_id)
            except NotFoundError:
                return await reading.bury(name, user_id, actor=context.operator())
        raise ConfigurationError(f"Auth0 knows {user_id}: nothing is erased", code="user_exists")

    if not (yes or as_json):
        typer.confirm("His grants are revoked at the providers, for good. Erase?", abort=True)
    buried = context.run(bury)
    if as_json:
        print_json({"user": user_id, "grants": [str(grant) for grant in buried]})
        return
    out.print(f"{len(buried)} grants are being revoked; the receipt: evergrant erasure show ID")


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
