"""A clock the test moves by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
