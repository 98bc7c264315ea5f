"""One lane per provider host: claimed attempts wait here, and as many run as the host bears."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from worker.domain.exchange import Limits
from worker.domain.ports import Clock
from worker.renewal.pacing import Pace
from worker.renewal.prepared import Prepared

Work = Callable[[Prepared, "Lane"], Awaitable[None]]


class Lane:
    """A queue, and runners that share it. One task per place under way, none per token."""

    def __init__(
        self,
        host: str,
        limits: Limits,
        *,
        clock: Clock,
        work: Work,
        room_again: Callable[[], object],
    ) -> None:
        self.host = host
        self.pace = Pace(limits)
        self.running = 0
        self._starting = 0  # of those running: have not yet taken anything from the queue
        self._queue: deque[Prepared] = deque()
        self._clock = clock
        self._work = work
        self._room_again = room_again
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def load(self) -> int:
        return self.running - self._starting + len(self._queue)

    @property
    def room(self) -> int:
        """How many more claims can soon be under way: half a round waits ready in the queue, and
        is filled up by quarters of a round, because a small claim costs as much as a large one."""
        now = self._clock.monotonic()
        if self.pace.shut_until(now) is not None or self.pace.backlog(now) > 1.0:
            return 0
        limit = self.pace.limit
        room = limit + limit // 2 - self.load
        return room if room >= limit // 4 else 0

    def submit(self, prepared: Prepared) -> None:
        self._queue.append(prepared)
        self._fill()

    def overdue(self) -> Iterable[Prepared]:
        """Take out what has waited so long that it may not be sent any more."""
        now = self._clock.monotonic()
        late = [one for one in self._queue if one.send_before <= now]
        if late:
            self._queue = deque(one for one in self._queue if one.send_before > now)
        return late

    def tasks(self) -> set[asyncio.Task[None]]:
        return set(self._tasks)

    async def turn(self) -> None:
        """Until the host's rate has a place for the attempt under way."""
        if (wait := self.pace.slot(self._clock.monotonic())) > 0:
            await self._clock.sleep(wait)

    async def _run(self) -> None:
        self._starting -= 1
        try:
            while self._queue and self.running <= max(1, self.pace.limit):
                prepared = self._queue.popleft()
                await self._work(prepared, self)
                self._fill(taken=1)
                if self.room:
                    self._room_again()
        finally:
            self.running -= 1

    def _fill(self, *, taken: int = 0) -> None:
        """Start a runner for each free place and each waiting attempt that has none coming.

        Args:
            taken: how many of those waiting the caller itself is about to take.
        """
        waiting = len(self._queue) - taken
        while self._starting < waiting and self.running < self.pace.limit:
            self._starting += 1
            self.running += 1
            task = asyncio.get_running_loop().create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
