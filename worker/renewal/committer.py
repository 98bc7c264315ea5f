"""Answers stream in one by one and are written in groups, many times a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from worker.domain.attempt import Brought, Ending, Settled
from worker.domain.errors import PermanentError, TransientError
from worker.domain.grant import GrantId
from worker.domain.ports import Clock, Offload
from worker.renewal.breaking import broke
from worker.renewal.ports import Journal, Settling

GROUP = 200
# Seconds an ending waits for company. What cannot be had again is in the journal before it comes
# here, so the wait loses nothing; and one transaction for a hundred costs little more than one for
# ten. Where few come, as for somebody who waits for his token, it is short.
GATHER, GATHER_MANY = 0.02, 0.1
MANY = 10  # were gathered the time before
_LONGEST_RETRY = 2.0
_AGAIN = 60.0  # seconds between tries to write what could not be written
BACKLOG = 5 * GROUP  # endings that may wait for the store before no more is claimed
_NOTHING = Settled(fates={}, counter=None)


class Committer:
    """Holds every ending in memory until the store has it, however long the store is away."""

    def __init__(
        self,
        settling: Settling,
        journal: Journal,
        *,
        clock: Clock,
        offload: Offload,
        settled: Callable[[Sequence[Ending], Settled], None],
    ) -> None:
        self._settling = settling
        self._journal = journal
        self._clock = clock
        self._offload = offload
        self._settled = settled
        self._pending: list[Ending] = []
        self._came = 0  # how many were gathered the last time
        self._left = 0  # of those, not yet written
        self._task: asyncio.Task[None] | None = None
        self._later: set[asyncio.Task[None]] = set()
        self._entries: dict[tuple[GrantId, int], int] = {}  # places in our journal
        self.store_away = False
        self.counter = 0  # the store's count of our rotated groups, as last confirmed

    def put(self, *endings: Ending) -> None:
        self._pending.extend(endings)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def journaled(self, brought: Brought, entry: int) -> None:
        """It stands in the journal, until the store has it."""
        self._entries[brought.grant, brought.fence] = entry

    @property
    def is_behind(self) -> bool:
        """The store takes endings more slowly than they come."""
        return len(self._pending) + self._left >= BACKLOG

    async def flushed(self) -> None:
        """Until everything put so far is in the store."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._pending:
            await self._clock.sleep(GATHER_MANY if self._came >= MANY else GATHER)
            gathered, self._pending = self._pending, []
            self._came = self._left = len(gathered)
            for start in range(0, len(gathered), GROUP):
                await self._write(gathered[start : start + GROUP])
                self._left = max(0, self._left - GROUP)

    async def _write(self, group: Sequence[Ending]) -> None:
        try:
            settled = await self._persist(group)
        except Exception as error:
            await self._apart(group, error)
            return
        if settled.counter is not None:
            self._mark(group, settled.counter)
        self._settled(group, settled)

    def _mark(self, group: Sequence[Ending], counter: int) -> None:
        self.counter = max(self.counter, counter)
        places = (self._entries.pop((one.grant, one.fence), None) for one in group)
        try:
            self._journal.mark([at for at in places if at is not None], counter)
        except Exception as error:  # then a replay finds that the store has them
            broke("marking_broke", error)

    async def _persist(self, group: Sequence[Ending]) -> Settled:
        """Raises whatever but TransientError: one of the group cannot be written."""
        wait = 0.1
        while True:
            try:
                settled = await self._offload(self._settling.settle, group)
            except TransientError:
                self.store_away = True
                await self._clock.sleep(wait)
                wait = min(_LONGEST_RETRY, wait * 2)
            else:
                self.store_away = False
                return settled

    async def _apart(self, group: Sequence[Ending], error: Exception) -> None:
        """One that cannot be written must not keep the others from it."""
        if len(group) > 1:
            if not isinstance(error, PermanentError):
                broke("group_unwritable", error)
            for ending in group:
                await self._write([ending])
            return
        ending = group[0]
        broke("ending_unwritable", error, ending.grant)
        if not isinstance(ending, Brought) or not ending.rotated:
            self._settled(group, _NOTHING)  # nothing is held: a takeover has its claim
        elif ending != (bare := ending.bare()):
            await self._write([bare])
        else:
            self._try_later(ending)

    def _try_later(self, brought: Brought) -> None:
        """It counts as alive until then: nobody may send the parent while we hold this (I4)."""

        async def again() -> None:
            await self._clock.sleep(_AGAIN)
            self.put(brought)

        task = asyncio.get_running_loop().create_task(again())
        self._later.add(task)
        task.add_done_callback(self._later.discard)
