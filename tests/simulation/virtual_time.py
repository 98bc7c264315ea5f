"""An event loop whose clock jumps: hours of waiting take no time, and the order is always the same.

Nothing in it may wait for the outside (threads, sockets): the simulated world is all there is.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")
START = datetime(2026, 1, 1, 12, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """When nothing is ready, the time of the next timer is now."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 1000.0

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        """As asyncio's own, but that it asks no selector: nothing comes from outside."""
        scheduled, ready = self._scheduled, self._ready  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heapq.heappop(scheduled)._scheduled = False
        if not (ready or scheduled or self._stopping):  # type: ignore[attr-defined]
            raise RuntimeError("everybody waits, and nothing will ever happen")
        if not ready and scheduled:
            self._virtual = max(self._virtual, scheduled[0]._when)
        until = self._virtual + self._clock_resolution  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._when < until:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()


class VirtualClock:
    """Meets `Clock`; `skew` is what an operator's step does to the wall clock."""

    def __init__(self) -> None:
        self.skew = timedelta(0)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic() - 1000.0) + self.skew

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def in_place(call: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """An `Offload` without threads."""
    return call(*args, **kwargs)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time; whatever tasks are left then are thrown away."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
