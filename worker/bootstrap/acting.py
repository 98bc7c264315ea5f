"""The actions: the built-in ones, the operator's, and what both may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from traceback import format_exception
from typing import Any

from worker.actions import Action, Collaborators, Registry, bind, built_in
from worker.actions import Settings as Times
from worker.bootstrap.base import Base
from worker.bootstrap.pulling import Reading
from worker.domain.event import Event
from worker.domain.ports import Notice
from worker.settings import Settings
from worker.store import outbox
from worker.store.connections import ConnectionRepository
from worker.store.findings import FindingRepository
from worker.store.notices import NoticeRepository
from worker.store.pulls import PullRepository
from worker.store.tenants import TenantRepository
from worker.sync.problems import SYNC_FAILED
from worker.vault import TenantVaults


def bound_actions(settings: Settings) -> list[Action]:
    """All of them. Raises: ConfigurationError naming the `[[actions]]` table that is wrong."""
    own = [bind(**{**vars(table), "secrets": dict(table.secrets)}) for table in settings.actions]
    return [*built_in(), *own]


def registry_of(
    base: Base, *, reading: Reading, vault: TenantVaults, connections: ConnectionRepository
) -> Registry:
    """What a worker process runs for each event."""
    notices = NoticeRepository(base.engine)
    tenants = TenantRepository(base.engine, vault)
    pulls = PullRepository(base.engine)
    findings = FindingRepository(base.engine, outbox.add)

    def tell(told: Sequence[Notice]) -> None:
        notices.tell(told, now=base.clock.now())
        base.hints.task("upkeep.outbox")

    def brake(tenant: str, *, for_: timedelta) -> None:
        tenants.brake(tenant, for_=for_, now=base.clock.now())

    def connection_name(tenant: str, connection_id: str) -> str | None:
        found = connections.get_by_id(tenant, connection_id)
        return found.name if found else None

    def synced(tenant: str, name: str, *, failed: bool, at: datetime) -> None:
        findings.synced(tenant, name, SYNC_FAILED, failed=failed, at=at, now=base.clock.now())

    def reserve(tenant: str, subject: str, *, gap: timedelta) -> timedelta:
        return pulls.reserve(tenant, subject, gap=gap, now=base.clock.now())

    return Registry(
        bound_actions(base.settings),
        collaborators=Collaborators(
            pull=reading.puller,
            forget=reading.forget,
            tell=tell,
            connection_name=connection_name,
            owner=findings.owner,
            holds=lambda tenant, user_id: bool(findings.of_user(tenant, user_id)),
            brake=brake,
            reserve=reserve,
            synced=synced,
            clock=base.clock,
            offload=base.offload,
        ),
        settings=Times(confirm_deletion_after=base.settings.deletion_confirm),
    )


async def dry_run(
    base: Base,
    event: Event,
    *,
    only: str | None = None,
    raised: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Run the operator's actions on `event`; what they ask of us is noted, not done.

    `raised` is shown the traceback of each that fails, which may hold anything.
    """
    asked: list[str] = []

    class Noted:
        """Stands in for everything behind `api`."""

        async def user(self, tenant: str, user_id: str, *, login: Event | None = None) -> None:
            asked.append(f"pull_user {tenant} {user_id}")

        async def connection(self, tenant: str, name: str) -> None:
            asked.append(f"pull_connection {tenant} {name}")

    async def forget(tenant: str, user_id: str) -> None:
        asked.append(f"drop_user {tenant} {user_id}")

    chosen = [
        action
        for action in bound_actions(base.settings)
        if not action.built_in and only in (None, action.name)
    ]
    registry = Registry(
        chosen,
        collaborators=Collaborators(
            pull=Noted(),
            forget=forget,
            tell=lambda notices: asked.extend(f"notify {one.kind}" for one in notices),
            connection_name=lambda _tenant, _id: None,
            owner=lambda _tenant, _connection, _account: None,
            holds=lambda _tenant, _user_id: True,
            brake=lambda tenant, *, for_: asked.append(f"brake {tenant} {for_}"),
            reserve=lambda _tenant, _subject, *, gap: timedelta(0),
            synced=lambda tenant, name, *, failed, at: asked.append(f"sync_ended {tenant} {name}"),
            clock=base.clock,
            offload=base.offload,
        ),
        failed=lambda _, error: raised("".join(format_exception(error))) if raised else None,
    )
    run = await registry.batch().run(event, {})
    ran = [action.name for action in registry.bound(event)]
    return {"ran": ran, "progress": run.progress, "asked": asked, "failed": run.failed}
