"""Brings the tokens that dead processes left in their journals into the store (C10, I24)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from worker.domain.attempt import Brought
from worker.domain.errors import PermanentError, TransientError
from worker.domain.ports import Offload
from worker.renewal.ports import Dead, Journal, NodeJournals, Settling

_GROUP = 200
_log = structlog.get_logger(__name__)


class Replayer:
    """Idempotent: what the store has already seen changes nothing, in whatever order it comes."""

    def __init__(
        self,
        settling: Settling,
        journal: Journal,
        journals: NodeJournals,
        *,
        offload: Offload,
        counter: Callable[[], int],
    ) -> None:
        self._settling = settling
        self._journal = journal
        self._journals = journals
        self._offload = offload
        self._counter = counter
        self._started = False
        self.doubtful = True  # of the store's memory, until it has been compared with ours

    async def replay(self) -> int:
        """Every dead process of this node whose journal the store may lack; how many."""
        return await self._offload(self._replay_dead)

    async def store_is_whole(self) -> bool:
        """Whether claims may be made: the store remembers all that our journals do (I24).

        A store that lags was rolled back by a failover or a restore. Then nothing is claimed
        until every retained journal of this node has been replayed.
        """
        if not self.doubtful:
            return True
        try:
            await self._offload(self._compare)
        except TransientError:
            return False
        self.doubtful = False
        return True

    def _replay_dead(self) -> int:
        count = 0
        with self._journals.unreplayed() as dead:
            for process in dead:
                count += 1
                if not self._bring(process, process.left):
                    break
        return count

    def _compare(self) -> None:
        """Raises: TransientError, the store is away."""
        behind = self._settling.counter(self._journal.process) < self._counter()
        with self._journals.all_dead() as dead:
            for process in dead:
                if behind or self._settling.counter(process.name) < process.counter:
                    behind = True
        if behind:
            _log.error("store_rolled_back", process=self._journal.process)
            self._bring_everything()

    def _bring_everything(self) -> None:
        with self._journals.all_dead() as dead:
            for process in dead:
                if not self._bring(process, [*process.kept, *process.left]):
                    raise TransientError("store: away during a replay", code="store_away")
                self._settling.restore_counter(process.name, process.counter)
        self._settle(self._journal.history())
        self._settling.restore_counter(self._journal.process, self._counter())

    def _bring(self, process: Dead, entries: Sequence[Brought]) -> bool:
        for what in process.damaged:
            _log.error("journal_damaged", process=process.name, what=what)
        try:
            self._settle(entries)
        except TransientError:
            return False
        process.replayed()
        _log.info("journal_replayed", process=process.name, entries=len(entries))
        return True

    def _settle(self, entries: Sequence[Brought]) -> None:
        """In the order they came, so that a successor finds its parent current."""
        for start in range(0, len(entries), _GROUP):
            group = entries[start : start + _GROUP]
            try:
                self._settling.settle(group)
            except PermanentError:
                self._settle_apart(group)

    def _settle_apart(self, group: Sequence[Brought]) -> None:
        for brought in group:
            try:
                self._settling.settle([brought])
            except PermanentError as error:
                _log.error("entry_unwritable", grant=str(brought.grant), code=error.code)
