"""What is done for each tenant again and again, each tenant by itself.

One that hangs, or has a mountain of log records to be read, delays no other: every tenant has
rounds of its own, begun and ended without a look at its neighbours.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

from worker.bootstrap.base import Base
from worker.bootstrap.following import (
    EVERY_EVENTS,
    EVERY_LOG,
    EVERY_ROUND,
    EVERY_STREAM,
    Round,
)
from worker.bootstrap.pulling import Reading
from worker.domain.errors import WorkerError
from worker.domain.event import Event, Source, Trigger
from worker.domain.ports import Notice
from worker.events import Intake, joined
from worker.monitoring.logs import logger
from worker.store.findings import FindingRepository
from worker.store.following import FollowingRepository
from worker.store.rounds import RoundRepository
from worker.sync import EventFeed, LogPoll, Reconcile, StreamWatch

_log = logger(__name__)

_NIGHT = timedelta(hours=20)  # a reconcile that has begun keeps others from beginning
_SLICE = 120.0  # seconds of it between two checkpoints
_LEASE = timedelta(minutes=5)  # of the process that is at it; longer than a slice may take

Tell = Callable[[Sequence[Notice]], None]


class TenantRounds:
    """The rounds of one process."""

    def __init__(self, base: Base, reading: Reading, intake: Intake, *, tell: Tell) -> None:
        self._base = base
        self._apis = reading.apis
        self._reading = reading
        self._intake = intake
        self._nights = RoundRepository(base.engine)
        self._findings = FindingRepository(base.engine)
        following = FollowingRepository(base.engine)
        self._poll = LogPoll(
            self._apis,
            reading.tenants,
            feed=self._into(Source.LOGS),
            on_gap=reading.look_at_everybody,
            offload=base.offload,
        )
        self._watch = StreamWatch(
            self._apis,
            following,
            feed=self._into(Source.EVENTS),
            tell=tell,
            clock=base.clock,
            offload=base.offload,
        )
        self._feed = EventFeed(
            self._apis,
            following,
            feed=self._into(Source.EVENTS),
            on_gap=reading.look_at_everybody,
            holder=f"{base.node}:{os.getpid()}:{id(self)}",
            clock=base.clock,
            offload=base.offload,
        )

    def all(self) -> Iterator[tuple[str, tuple[timedelta, Round]]]:
        """By name: how often, and what."""
        departing = self._reading.departing
        for tenant, told in self._base.settings.tenants.items():
            yield f"reconcile.{tenant}", (EVERY_ROUND, partial(self.reconcile, tenant))
            look = partial(departing.look_again, tenant)
            yield f"departures.{tenant}", (departing.every, look)
            if self._base.settings.poll_logs:
                yield f"poll_logs.{tenant}", (EVERY_LOG, partial(self._polled, tenant))
                watch = partial(self._watch.once, tenant)
                yield f"watch_streams.{tenant}", (EVERY_STREAM, watch)
            if told.events_api:
                yield f"events.{tenant}", (EVERY_EVENTS, partial(self._followed, tenant))

    async def begin_night(self) -> Mapping[str, int]:
        """Begin a reconcile of every tenant, where none has begun lately."""
        return {"begun": sum([await self._begin(tenant) for tenant in self._apis])}

    async def reconcile(self, tenant: str) -> Mapping[str, int]:
        """Go on with the round, if nobody is at it: saved every few minutes, so that a killed
        process costs no more than that."""
        base, holder = self._base, f"{self._base.node}:{os.getpid()}"
        reconcile = Reconcile(
            self._apis[tenant],
            self._reading.puller,
            self._findings,
            on_missing=partial(self._missing, tenant),
            clock=base.clock,
            offload=base.offload,
            share=base.settings.reconcile_share,
            databases=base.settings.tenants[tenant].database_connections,
        )
        counts: Counter[str] = Counter()
        hold = partial(self._nights.hold, tenant, holder)
        now = base.clock.now()
        try:
            after = await base.offload(hold, now=now, until=now + _LEASE)
            latest = await base.offload(self._nights.latest, tenant)
            since = latest.since if latest else None
            while after is not None:
                done = await reconcile.run(after=after, since=since, seconds=_SLICE)
                found = asdict(done)
                after, now = found.pop("next_place"), base.clock.now()
                counts.update(found)
                save = partial(self._nights.save, tenant, holder, after=after, counts=found)
                if not await base.offload(save, now=now, until=now + _LEASE):
                    break  # begun anew meanwhile, or taken over
        except WorkerError as error:
            _log.warning("reconcile interrupted", tenant=tenant, code=error.code)
        return counts

    async def _begin(self, tenant: str) -> bool:
        begin = partial(self._nights.begin, tenant, every=_NIGHT)
        return await self._base.offload(begin, now=self._base.clock.now())

    async def _missing(self, tenant: str, user_id: str) -> None:
        """As if his deletion had been told: it is looked at twice, and soon."""
        now = self._base.clock.now()
        event = Event(
            tenant=tenant,
            trigger=Trigger.USER_DELETED,
            source=Source.OURSELVES,
            delivery_id=f"missing:{user_id}:{now.isoformat()}",
            occurred_at=now,
            user_id=user_id,
        )
        await self._base.offload(self._intake.accept, [event])

    async def _polled(self, tenant: str) -> Mapping[str, int]:
        """Events whose webhooks were lost (I25), where the tenant lets us read its log."""
        if "read:logs" not in (await self._apis[tenant].granted_scopes()).split():
            return {}
        return {"records": await self._poll.once(tenant)}

    async def _followed(self, tenant: str) -> Mapping[str, int]:
        """Endless, while it goes well."""
        if "read:events" not in (await self._apis[tenant].granted_scopes()).split():
            return {}  # the doctor says so
        try:
            return {"events": await self._feed.run(tenant)}
        finally:  # stopped, or broken: another process may go on at once
            await asyncio.shield(self._feed.release(tenant))

    def _into(self, source: Source) -> Callable[..., Coroutine[Any, Any, None]]:
        """As the stream's own: what came through the door as well is a duplicate."""

        async def feed(tenant: str, records: Sequence[bytes]) -> None:
            body, offload = joined(records), self._base.offload
            await self._intake.receive(tenant, source, body, offload=offload)

        return feed
