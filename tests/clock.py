"""A clock the test moves by hand."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)


class FakeClock:
    """Meets `Clock`: wall and monotonic time move together, unless the wall clock is stepped."""

    def __init__(self, start: datetime = T0) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Returns at once; time has passed."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def step_wall(self, seconds: float) -> None:
        """What NTP or an operator does: only the wall clock jumps."""
        self._now += timedelta(seconds=seconds)


class Sleepers(FakeClock):
    """Whoever sleeps shortest wakes first, however many sleep beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._counted = itertools.count()

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heappush(self.sleepers, (self.monotonic() + seconds, next(self._counted), woken))
        await woken

    def wake_next(self) -> None:
        """Time passes until then."""
        at, _, woken = heappop(self.sleepers)
        self.advance(max(0.0, at - self.monotonic()))
        woken.set_result(None)


def as_told(_connection: object, own: datetime) -> datetime:
    """A `StoreTime` of a store without a clock of its own: the test's goes."""
    return own
