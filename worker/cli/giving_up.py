"""`evergrant erasure …`: what became of grants that were given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from worker.bootstrap.base import Base
from worker.bootstrap.ending import tombstones_of
from worker.cli import context
from worker.cli.leak_view import print_report
from worker.cli.moments import moment
from worker.cli.one_reading import OneReading
from worker.cli.output import Json, Tenant, counted, out, print_json, print_table
from worker.domain.errors import ConfigurationError, NotFoundError
from worker.domain.grant import GrantId
from worker.domain.held import Withheld
from worker.revocation.compromise import reported
from worker.store import outbox
from worker.store.concerned import ConcernedRepository
from worker.store.tombstones import TombstoneRepository
from worker.store.withholding import WithholdingRepository

erasure = typer.Typer(help="What became of grants that were given up.", no_args_is_help=True)


@erasure.command()
def show(
    subject: Annotated[
        str, typer.Argument(metavar="GRANT|USER", help="A grant's id, or an Auth0 user's.")
    ],
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """The receipt: when nothing was handed out any more, when it ended here and after what wait,
    what the provider said, when the keys were destroyed.

    Example: evergrant erasure show 'google-oauth2|1077'
    """
    with context.opened() as base:
        store = _tombstones(base)
        grants = _grants_of(base, store, subject, tenant)
        receipts = [(grant, entry) for grant in grants for entry in store.receipt(grant)]
    if not receipts:
        raise NotFoundError(f"no grant of {subject} was given up; `evergrant grants list` shows it")
    rows: list[dict[str, Any]] = [
        {"grant": grant, "at": entry.at, "what": entry.verb, "by": entry.actor,
         **(entry.detail or {})}
        for grant, entry in receipts
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    several = ["grant"] if len(grants) > 1 else []
    columns = ["at", "what", "why", "outcome", "code", "by_hand", "by"]
    print_table(rows, [*several, *columns], empty="")
    for row in rows:
        if "quiet_seconds" in row:
            out.print(
                f"ended after {row['quiet_seconds']} s of handing out nothing, as Auth0 still knew"
                " no such user and found his identities under no other"
            )
            break


@erasure.command()
def report(
    *,
    since: Annotated[str, typer.Option(help="Given up since: 2h, 3d, or an ISO time.")] = "24h",
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """What was given up lately, counted: revoked at the provider, to be ended by hand, pending.

    Example: evergrant erasure report --since 2h
    """
    with context.opened() as base:
        name, kin = context.tenant_of(base, tenant), ConcernedRepository(base.engine)
        fates = kin.given_up_since(name, moment(since, base.store_now()))
    told = reported(fates)
    if as_json:
        print_json(asdict(told))
        return
    print_report(told) if told.grants else out.print("nothing was given up since then")


@erasure.command()
def waiting(tenant: Tenant = None, as_json: Json = False) -> None:
    """Users whom Auth0 no longer knows, and who may have been linked to another: you decide.

    Their grants are kept and renewed, and handed to nobody. After the quiet time Auth0 is asked
    once more; where it can tell that nobody has their identities, they end by themselves. If you
    know to whom one was linked, pull that user (`evergrant sync users --ids -`); if he is deleted,
    `evergrant erasure confirm`.
    """
    with context.opened() as base:
        store = WithholdingRepository(base.engine, base.audit, outbox.add)
        names = [context.tenant_of(base, tenant)] if tenant else list(base.settings.tenants)
        quiet = base.settings.deletion_quiet
        rows = [
            {**asdict(one), "asked_again": one.since + quiet}
            for name in names
            for one in store.users(name, Withheld.USER_MISSING)
        ]
    if as_json:
        print_json(rows)
        return
    columns = ["tenant", "user_id", "grants", "since", "asked_again"]
    print_table(rows, columns, empty="nobody waits")


@erasure.command()
def confirm(
    user_id: Annotated[str, typer.Argument(help="As `evergrant erasure waiting` shows it.")],
    tenant: Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Say that a user who waits was deleted: his grants are given up and erased.

    Auth0 is asked once more; a user whom it knows is not erased.
    """

    async def bury(base: Base) -> Sequence[GrantId]:
        name = _where_he_waits(base, tenant, user_id)
        async with OneReading(base) as reading:
            try:
                await reading.puller.read(name, user_id)
            except NotFoundError:
                told = {"confirmed_by": context.operator()}
                return await reading.departing.bury(
                    name, user_id, actor=context.operator(), told=told
                )
        raise ConfigurationError(f"Auth0 knows {user_id}: nothing is erased", code="user_exists")

    if not (yes or as_json):
        with context.opened() as base:
            _where_he_waits(base, tenant, user_id)  # before anybody is asked
        told = "His grants end for good, at the providers too where they can be asked."
        typer.confirm(f"{told} Erase?", abort=True)
    buried = context.run(bury)
    if as_json:
        print_json({"user": user_id, "grants": [str(grant) for grant in buried]})
        return
    out.print(f"given up: {counted(len(buried), 'grant')}; the receipt: evergrant erasure show ID")


def _where_he_waits(base: Base, tenant: str | None, user_id: str) -> str:
    """The tenant. Raises: NotFoundError."""
    name = context.tenant_of(base, tenant)
    store = WithholdingRepository(base.engine, base.audit, outbox.add)
    if user_id not in {one.user_id for one in store.users(name, Withheld.USER_MISSING)}:
        raise NotFoundError(f"{user_id} does not wait; `evergrant erasure waiting` shows who")
    return name


def _grants_of(
    base: Base, store: TombstoneRepository, subject: str, tenant: str | None
) -> Sequence[GrantId]:
    """Of a grant's id that one; of a user's id all that point at him."""
    if "|" not in subject:
        return [context.grant_of(base, subject).id]
    names = [context.tenant_of(base, tenant)] if tenant else list(base.settings.tenants)
    return [grant for name in names for grant in store.of_user(name, subject)]


def _tombstones(base: Base) -> TombstoneRepository:
    return tombstones_of(base)
