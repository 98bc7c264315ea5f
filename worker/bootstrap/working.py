"""The worker process: everything it does, on one event loop, made on first use after any fork."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any

import httpx

from worker.auth0 import open_client
from worker.bootstrap.acting import registry_of
from worker.bootstrap.base import Base, Role, intake_of, open_base
from worker.bootstrap.ending import reach_of, tombstones_of
from worker.bootstrap.following import Following
from worker.bootstrap.forgetting import Forgetting
from worker.bootstrap.keyrings import refuse_foreign_keys
from worker.bootstrap.pulling import Reading
from worker.bootstrap.renewing import engine_of
from worker.bootstrap.rounds import TenantRounds
from worker.bootstrap.runtime import Loop
from worker.bootstrap.schedule import StoreSchedule
from worker.bootstrap.tick import SelfSweep
from worker.domain.ports import Notice
from worker.events import Intake, Processor
from worker.events.inlet import QueueInlet
from worker.monitoring.logs import logger
from worker.notices import ActionSink, Dispatcher, ExchangeSink, WebhookSink
from worker.providers import HttpTokenEndpoint
from worker.queue.consumer import EXCHANGE, NoticePublisher
from worker.renewal.warning import warn
from worker.revocation import Revoker
from worker.settings import Settings
from worker.store import outbox
from worker.store.anchors import Anchors
from worker.store.dead_messages import DeadMessageRepository
from worker.store.hints import HintRepository
from worker.store.inbox import InboxRepository
from worker.store.last_days import LastDays
from worker.store.notices import NoticeRepository

_log = logger(__name__)

Counts = Mapping[str, int]
Job = Callable[[], Coroutine[Any, Any, Counts]]

# Upkeep jobs and how often the scheduler hints at each; None: when the tick finds something due.
JOBS: Mapping[str, timedelta | None] = {
    "outbox": None,
    "sweep": timedelta(seconds=30),
    "replay": timedelta(seconds=30),
    "revocations": timedelta(seconds=10),
    "anchor": timedelta(minutes=10),
    "purge": timedelta(hours=1),
    "warn": timedelta(hours=6),  # of ends that no renewal moves: a week ahead, mostly
    "reconcile": None,  # nightly, see EVERGRANT_RECONCILE_HOUR
}
ANCHORS = "audit.anchors"  # in the data directory
ALIVE = "worker.alive"  # in the data directory; touched as long as the loop turns


class Worker:
    """Meets `worker.tasks.shells.Work`. Its methods block; Celery's threads call them."""

    def __init__(self, settings: Settings, *, celery: Any = None) -> None:
        self._base = open_base(settings, Role.WORKER, celery=celery)
        keyring = self._base.vault().keyring
        refuse_foreign_keys(self._base.engine, keyring, settings)
        self._loop = Loop("exchanges")
        self._parts = self._loop.call(_assembled(self._base))
        self.inlet = self._parts.inlet

    def start(self) -> None:
        """Watch the schedule ourselves, whatever becomes of broker and scheduler."""
        self._loop.soon(self._parts.start)

    def begun(self, task: str) -> None:
        self._base.hints.begun(task)

    def renew(self, provider: str) -> Counts:
        return self._loop.call(self._parts.renew(provider))

    def events(self) -> Counts:
        return self._loop.call(self._parts.events())

    def upkeep(self, job: str) -> Counts:
        return self._loop.call(self._parts.jobs[job]())

    def stop_claiming(self) -> None:
        """Begin nothing more; exchanges under way go on to their end (C5)."""
        self._loop.soon(self._parts.stop)

    def close(self) -> None:
        """After the last task has ended."""
        self._loop.call(self._parts.close())
        self._loop.close()
        self._base.close()


class _Parts:
    """The collaborators, made on the loop's thread."""

    def __init__(self, base: Base, http: httpx.AsyncClient) -> None:
        self._base, self._http = base, http
        self._budget = base.settings.batch_seconds
        self._draining: dict[str, bool] = {}
        self._stopped: asyncio.Future[None] | None = None
        self._watching: asyncio.Future[None] | None = None
        self._shut: frozenset[str] = frozenset()  # tenants whose keyring does not open
        self._vault, self._connections = base.vault(), base.connections()
        self._endpoint = HttpTokenEndpoint(allow_loopback=base.settings.allow_loopback)
        self._reading = Reading(base, http, vault=self._vault, connections=self._connections)
        self._engine = engine_of(
            base,
            vault=self._vault,
            connections=self._connections,
            endpoint=self._endpoint,
            pull=self._reading.puller,
        )
        self._inbox = InboxRepository(base.engine)
        self._notices = NoticeRepository(base.engine)
        self._dead = DeadMessageRepository(base.engine)
        self._publisher = NoticePublisher(base.celery.connection_for_write)
        self._registry = registry_of(
            base, reading=self._reading, vault=self._vault, connections=self._connections
        )
        self._processor = Processor(
            inbox=self._inbox, actions=self._registry, clock=base.clock, offload=base.offload
        )
        intake = intake_of(base)
        self.inlet = QueueInlet(intake, tenants=base.settings.tenants, bury=self._bury)
        self._dispatcher = self._dispatching(intake)
        self._revoker = self._revoking()
        self._watch = self._watch_of_our_own()
        self._rounds = TenantRounds(base, self._reading, intake, tell=self._tell)
        self.jobs: Mapping[str, Job] = {
            "outbox": self.notices,
            "sweep": self._swept,
            "replay": self._replayed,
            "revocations": self._revoked,
            "anchor": self._anchored,
            "purge": self._purged,
            "warn": self._warned,
            "reconcile": self._rounds.begin_night,  # hours long, so they run beside the tasks
        }
        self._following = Following(
            dict(self._rounds.all()),
            take=HintRepository(base.engine).take,
            clock=base.clock,
            offload=base.offload,
        )

    async def renew(self, provider: str) -> Counts:
        """One drain per provider and process; a hint that comes meanwhile makes it go round."""
        if provider in self._draining:
            self._draining[provider] = True
            return {"joined": 1}
        counts: dict[str, int] = {}
        try:
            again = True
            while again:
                self._draining[provider] = False
                done = await self._engine.drain(provider, budget_seconds=self._budget)
                for name, count in done.items():
                    counts[name] = counts.get(name, 0) + count
                again = self._draining[provider]
        finally:
            self._draining.pop(provider, None)
        return counts

    async def events(self) -> Counts:
        return await self._processor.process(budget_seconds=self._budget)

    async def notices(self) -> Counts:
        return await self._dispatcher.dispatch(budget_seconds=self._budget)

    def start(self) -> None:
        self._watching = asyncio.ensure_future(self._watch.run())

    def stop(self) -> None:
        self._processor.stop()
        self._following.stop()
        if self._watching is not None:
            self._watching.cancel()
        if self._stopped is None:
            self._stopped = asyncio.ensure_future(self._engine.stop())

    async def close(self) -> None:
        self.stop()
        if self._stopped is not None:
            await self._stopped
        await self._endpoint.close()
        await self._http.aclose()
        self._publisher.close()

    async def _swept(self) -> Counts:
        (self._base.settings.data_dir / ALIVE).touch()
        await self._following.begin()
        await self._tell_of_keyrings()
        return await self._engine.sweep()

    async def _tell_of_keyrings(self) -> None:
        """Once a day of each that does not open."""
        shut, now = self._vault.closed(), self._base.clock.now()
        fresh = [
            Notice(
                tenant=tenant,
                kind="keyring_closed",
                episode=f"keyring_closed:{tenant}:{now:%Y-%m-%d}",
                reason=why,
            )
            for tenant, why in shut.items()
            if tenant not in self._shut
        ]
        if fresh:
            await self._base.offload(self._tell, fresh)
        self._shut = frozenset(shut)

    def _tell(self, told: Sequence[Notice]) -> None:
        self._notices.tell(told, now=self._base.clock.now())
        self._base.hints.task("upkeep.outbox")

    async def _replayed(self) -> Counts:
        return {"dead_processes": await self._engine.replay()}

    async def _revoked(self) -> Counts:
        return await self._revoker.drain(budget_seconds=self._budget)

    async def _warned(self) -> Counts:
        base = self._base
        actor = f"worker:{base.node}"
        warned = await warn(
            last_days=LastDays(base.engine, base.audit, outbox.add, actor=actor),
            connections=self._connections,
            catalogue=base.catalogue,
            clock=base.clock,
            offload=base.offload,
        )
        if warned:
            base.hints.task("upkeep.outbox")
        return {"warned": warned}

    async def _anchored(self) -> Counts:
        """Note outside the database where the audit's chains end (I20)."""
        base = self._base
        anchors = Anchors(base.settings.data_dir / ANCHORS, self._vault)
        return {"heads": await base.offload(anchors.note, base.engine, base.clock.now())}

    async def _purged(self) -> Counts:
        base = self._base
        forgetting = Forgetting(
            engine=base.engine,
            clock=base.clock,
            offload=base.offload,
            stopping=lambda: self._stopped is not None,
        )
        return await forgetting.round()

    def _bury(self, why: str, body: bytes) -> None:
        self._dead.add(EXCHANGE, why=why, body=body, now=self._base.clock.now())

    def _dispatching(self, intake: Intake) -> Dispatcher:
        base = self._base
        webhooks = [
            WebhookSink(
                told.url,
                told.secret,
                http=self._http,
                clock=base.clock,
                kinds=told.kinds,
                tenants=told.tenants,
            )
            for told in base.settings.notices
        ]
        bound = self._registry.bound
        actions = ActionSink(intake.accept, lambda event: bool(bound(event)), base.offload)
        exchange = ExchangeSink(self._publisher, base.offload)
        return Dispatcher(
            outbox=self._notices,
            sinks=[exchange, actions, *webhooks],
            clock=base.clock,
            offload=base.offload,
        )

    def _revoking(self) -> Revoker:
        base = self._base
        return Revoker(
            tombstones=tombstones_of(base),
            connections=self._connections.with_deleted(),
            catalogue=base.catalogue,
            endpoint=self._endpoint,
            vault=self._vault,
            reach=reach_of(base, self._connections),
            clock=base.clock,
            offload=base.offload,
        )

    def _watch_of_our_own(self) -> SelfSweep:
        base = self._base
        return SelfSweep(
            schedule=StoreSchedule(base.engine, base.clock),
            clock=base.clock,
            offload=base.offload,
            every=max(base.settings.tick, timedelta(seconds=1)),
            sweep=self._swept,
            renew=self.renew,
            events=self.events,
            notices=self.notices,
        )


async def _assembled(base: Base) -> _Parts:
    return _Parts(base, open_client())
