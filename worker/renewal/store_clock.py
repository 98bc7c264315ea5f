"""One wall clock for all workers: the store's, wherever their own are set to (T7)."""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.domain.ports import Clock


class StoreClock:
    """The time that the last claim told, carried on by our monotonic clock; before it, our own.

    What is due, and what has expired, the store decides by its clock. A worker whose clock is an
    hour slow would otherwise write tokens that have expired when they come, and renew them without
    end; one that is fast would call a grant dead before its minute has passed.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._told: datetime | None = None
        self._told_at = 0.0  # monotonic

    def heard(self, now: datetime) -> None:
        self._told, self._told_at = now, self._own.monotonic()

    def now(self) -> datetime:
        if self._told is None:
            return self._own.now()
        return self._told + timedelta(seconds=self._own.monotonic() - self._told_at)

    def monotonic(self) -> float:
        return self._own.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._own.sleep(seconds)
