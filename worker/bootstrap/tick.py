"""The tick: what the store says is due becomes hints; what nobody took is swept.

Two schedulers at once, or none, change nothing but the number of hints: the claim decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from worker.domain.errors import WorkerError
from worker.domain.ports import Clock, Offload
from worker.monitoring.logs import logger

_log = logger(__name__)


class Due(Protocol):
    """One tenant has grants due at one provider."""

    @property
    def provider(self) -> str: ...

    @property
    def since(self) -> datetime: ...


class Schedule(Protocol):
    """What the tick asks the store."""

    def due(self) -> Sequence[Due]: ...

    def events_due(self, now: datetime) -> bool: ...

    def notices_due(self, now: datetime) -> bool: ...


class TaskHints(Protocol):
    def renew(self, provider: str) -> None: ...

    def events(self) -> None: ...

    def task(self, name: str) -> None: ...


def tick(schedule: Schedule, hints: TaskHints, now: datetime) -> dict[str, int]:
    """One hint per entry with due work, one for events, one for notices. Returns counts."""
    due = sorted({line.provider for line in schedule.due() if line.since <= now})
    for provider in due:
        hints.renew(provider)
    if events := schedule.events_due(now):
        hints.events()
    if notices := schedule.notices_due(now):
        hints.task("upkeep.outbox")
    return {"providers": len(due), "events": int(events), "notices": int(notices)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfSweep:
    """A worker's own watch over the schedule: renewal goes on with broker and scheduler dead."""

    schedule: Schedule
    clock: Clock
    offload: Offload
    every: timedelta
    sweep: Callable[[], Awaitable[object]]  # what dead processes left, pauses others learnt of
    renew: Callable[[str], Awaitable[object]]
    events: Callable[[], Awaitable[object]]
    notices: Callable[[], Awaitable[object]]

    async def run(self) -> None:
        """For ever. Work counts as left alone once it is two periods overdue."""
        while True:
            await self.clock.sleep(self.every.total_seconds())
            try:
                await self.once()
            except WorkerError as error:  # the store is away; so is everything else, for now
                _log.warning("sweep skipped", code=error.code)
            except Exception:  # whatever it is, the watch must go on
                _log.exception("sweep failed")

    async def once(self) -> int:
        """Do what nobody took; returns how many kinds of work that were."""
        await self.sweep()
        since = self.clock.now() - 2 * self.every
        lines = await self.offload(self.schedule.due)
        left = sorted({line.provider for line in lines if line.since <= since})
        if left:
            _log.info("sweeping work that no hint brought", providers=left)
        await asyncio.gather(*(self.renew(provider) for provider in left))
        count = len(left)
        if await self.offload(self.schedule.events_due, since):
            await self.events()
            count += 1
        if await self.offload(self.schedule.notices_due, since):
            await self.notices()
            count += 1
        return count
