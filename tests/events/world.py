"""An intake and a processor on a real store, with a tenant that answers as told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from tests.clock import FakeClock, as_told
from tests.events.payloads import FACTS
from worker.actions import Action, Collaborators, Registry, Settings, built_in
from worker.domain.errors import NotFoundError, TransientError
from worker.domain.event import Event, Source
from worker.domain.ports import Notice
from worker.events import Counts, Intake, Processor, Spool, TenantFacts
from worker.events.ports import Limits
from worker.store.inbox import InboxRepository
from worker.store.notices import NoticeRepository
from worker.store.pulls import PullRepository
from worker.store.stuck_events import StuckEventRepository


class FakePull:
    """A tenant's users: who is there, and what goes wrong."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.users: list[tuple[str, str]] = []
        self.logins: list[Event | None] = []
        self.connections: list[tuple[str, str]] = []
        self.gone: set[str] = set()
        self.broken: dict[str, Exception] = {}  # by tenant
        self.hangs: set[str] = set()  # tenants that never answer

    async def user(self, tenant: str, user_id: str, *, login: Event | None = None) -> None:
        self.users.append((tenant, user_id))
        self.logins.append(login)
        await self._answer(tenant, user_id)

    async def connection(self, tenant: str, name: str) -> None:
        self.connections.append((tenant, name))
        await self._answer(tenant, name)

    async def _answer(self, tenant: str, subject: str) -> None:
        if tenant in self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if tenant in self.broken:
            raise self.broken[tenant]
        if subject in self.gone:
            raise NotFoundError("no such user", code="inexistent_user")


async def offload(call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return await asyncio.to_thread(call, *args, **kwargs)


class World:
    """Everything between a body and its effects, on a store that may be away."""

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        *,
        actions: Sequence[Action] = (),
        tenants: Sequence[str] = ("other",),
    ) -> None:
        self.clock = FakeClock()
        self.engine = engine
        self.inbox = InboxRepository(engine)
        self.stuck = StuckEventRepository(engine)
        self.store = Interruptible(self.inbox)
        self.pull = FakePull(self.clock)
        self.forgotten: list[tuple[str, str]] = []
        self.strangers: set[str] = set()  # users of whom no grant is held
        self.accounts: dict[tuple[str, str], str] = {}
        self.syncs: list[tuple[str, str, bool, datetime]] = []
        self.braked: list[tuple[str, timedelta]] = []
        self.rings = 0
        self.spool = Spool(directory / "spool")
        self.tenants: Mapping[str, TenantFacts] = {
            "acme": FACTS,
            **{name: TenantFacts(name=name) for name in tenants},
        }
        self.intake = Intake(
            inbox=self.store,
            tenants=self.tenants,
            spool=self.spool,
            ring=self._ring,
            clock=self.clock,
        )
        self.settings = Settings()
        self.bind(*actions)

    def bind(self, *actions: Action) -> None:
        """Begin anew with these actions besides the built-in ones, as a restart would."""
        self.registry = Registry(
            [*built_in(), *actions],
            collaborators=Collaborators(
                pull=self.pull,
                forget=self._forget,
                tell=self._tell,
                connection_name=lambda _tenant, id_: {"con_gsuite": "acme-workspace"}.get(id_),
                owner=lambda _tenant, connection, account: self.accounts.get((connection, account)),
                holds=lambda _tenant, user_id: user_id not in self.strangers,
                brake=self._brake,
                reserve=self._reserve,
                synced=self._synced,
                clock=self.clock,
                offload=offload,
            ),
            settings=self.settings,
        )
        self.processor = Processor(
            inbox=self.store,
            actions=self.registry,
            clock=self.clock,
            offload=offload,
            limits=Limits(),
        )

    def _synced(self, tenant: str, name: str, *, failed: bool, at: datetime) -> None:
        self.syncs.append((tenant, name, failed, at))

    def deliver(self, body: bytes, *, tenant: str = "acme", source: Source = Source.LOGS) -> Counts:
        return self.intake.take(tenant, source, self.intake.read(tenant, source, body))

    async def work(self, seconds: float = 15) -> dict[str, int]:
        return await self.processor.process(budget_seconds=seconds)

    async def work_for(self, seconds: float, *, step: float = 1.0) -> None:
        """Let time pass, working all the while."""
        for _ in range(int(seconds / step)):
            await self.work()
            self.clock.advance(step)
        await self.work()

    def _ring(self) -> None:
        self.rings += 1

    async def _forget(self, tenant: str, user_id: str) -> None:
        self.forgotten.append((tenant, user_id))

    def _tell(self, notices: Sequence[Notice]) -> None:
        NoticeRepository(self.engine).tell(notices, now=self.clock.now())

    def _reserve(self, tenant: str, subject: str, *, gap: timedelta) -> timedelta:
        pulls = PullRepository(self.engine, time=as_told)
        return pulls.reserve(tenant, subject, gap=gap, now=self.clock.now())

    def _brake(self, tenant: str, *, for_: timedelta) -> None:
        self.braked.append((tenant, for_))


class Interruptible:
    """An inbox that can be away."""

    def __init__(self, inbox: InboxRepository) -> None:
        self._inbox = inbox
        self.away = False
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        self.asked += 1
        if self.away:
            return self._refuse
        return getattr(self._inbox, name)

    def _refuse(self, *_args: Any, **_kwargs: Any) -> Any:
        raise TransientError("store: OperationalError", code="store_away")
