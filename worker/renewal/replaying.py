"""Brings the tokens that dead processes left in their journals into the store (C10, I24)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from worker.domain.attempt import Brought
from worker.domain.errors import TransientError
from worker.domain.ports import Clock, Offload
from worker.domain.rotation import HOLD
from worker.renewal.breaking import broke
from worker.renewal.ports import Claims, Dead, Journal, NodeJournals, Settling

_GROUP = 200
_MARGIN = 500  # groups: answers under way may have been counted before we looked
_TIDY_EVERY = 3600.0  # seconds
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """A process, and how many of its groups with rotated tokens the store has confirmed."""

    name: str
    counter: int


class Replayer:
    """Idempotent: what the store has already seen changes nothing, in whatever order it comes."""

    def __init__(
        self,
        settling: Settling,
        journal: Journal,
        journals: NodeJournals,
        *,
        claims: Claims,
        node: str,
        clock: Clock,
        offload: Offload,
        counter: Callable[[], int],
    ) -> None:
        self._settling = settling
        self._journal = journal
        self._journals = journals
        self._claims = claims
        self._node = node
        self._clock = clock
        self._offload = offload
        self._counter = counter
        self._known: int | None = None  # the history last compared; None: none yet
        self._waiting: tuple[int, float] | None = None  # for others, of that history, since then
        self._tidy_at = float("-inf")
        self.doubtful = True  # of the store's memory, until it has been compared with ours

    async def replay(self) -> int:
        """Every dead process of this node whose journal the store may lack; how many.

        Not before the store is known to be whole: nobody would wait for them any more (I24).
        """
        if not await self.store_is_whole():
            return 0
        if not self.doubtful and self._clock.monotonic() >= self._tidy_at:
            self._tidy_at = self._clock.monotonic() + _TIDY_EVERY
            await self._offload(self._forget_old)
        return await self._offload(self._replay_dead)

    async def store_is_whole(self) -> bool:
        """Whether claims may be made: the store remembers all that the journals do (I24).

        A store that lags was rolled back by a failover or a restore. Then nothing is claimed
        until the retained journals were replayed: ours, and where it is another history of the
        store than before, those of every process that knew the last one, for as long as a hold.
        """
        if not self.doubtful:
            return True
        try:
            await self._offload(self._compare)
        except TransientError:
            return False
        self.doubtful = False
        return True

    async def leave(self) -> None:
        """This process ends, and the store has all it ever got."""
        with suppress(TransientError):
            await self._offload(self._settling.unvouch, self._journal.process)

    def _replay_dead(self) -> int:
        count = 0
        with self._journals.unreplayed() as dead:
            for process in dead:
                count += 1
                if not self._bring(process, process.left):
                    break
                self._settling.unvouch(process.name)
        return count

    def _forget_old(self) -> None:
        """Journals that no replay needs any more, and the counts that they were compared with.

        The counts are asked for first: a process that begins meanwhile is not among them.
        Raises: TransientError, the store is away.
        """
        self._journals.drop_old()
        if gone := self._settling.counted() - self._journals.names():
            self._settling.uncount(gone)

    def _compare(self) -> None:
        """Raises: TransientError, the store is away, or others have not looked at it yet."""
        lineage = self._settling.lineage()
        silent = set(self._settling.silent(lineage))
        with self._journals.all_dead() as dead:
            ours = [self._own(), *(_Known(one.name, one.counter) for one in dead)]
        behind = any(self._settling.counter(one.name) < one.counter for one in ours)
        if behind:
            _log.error("store_rolled_back", process=self._journal.process)
        if behind or any(f"{self._node}:{one.name}" in silent for one in ours):
            self._bring_everything()
        another = bool(silent) or self._known not in (None, lineage)
        beside = self._journals.living() if another else ()
        gone = [one.name for one in ours[1:]]
        self._wait_for(self._settling.vouch(lineage, gone=gone, beside=beside), lineage)
        self._known = lineage
        self._claims.lineage = lineage

    def _own(self) -> _Known:
        return _Known(self._journal.process, self._counter())

    def _wait_for(self, others: Sequence[str], lineage: int) -> None:
        """Raises: TransientError, they have not all compared their journals with this history."""
        now = self._clock.monotonic()
        if self._waiting is None or self._waiting[0] != lineage:
            self._waiting = (lineage, now)
            if others:
                _log.warning("waits_for_journals", of=list(others))
        if others and now - self._waiting[1] < HOLD.total_seconds():
            raise TransientError(f"store: waits for {', '.join(others)}", code="others_compare")
        if others:
            _log.error("journals_never_compared", who=list(others))
            self._settling.forget(others)

    def _bring_everything(self) -> None:
        with self._journals.all_dead() as dead:
            for process in dead:
                if not self._bring(process, process.history(self._above(process))):
                    raise TransientError("store: away during a replay", code="store_away")
                self._settling.restore_counter(process.name, process.counter)
        own = self._own()
        self._settle(self._journal.history(self._above(own)))
        self._settling.restore_counter(own.name, own.counter)

    def _above(self, process: _Known | Dead) -> int:
        """From which group on the store may lack what it had."""
        return min(self._settling.counter(process.name), process.counter) - _MARGIN

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
            except TransientError:
                raise
            except Exception:
                self._settle_apart(group)

    def _settle_apart(self, group: Sequence[Brought]) -> None:
        """One that cannot be written must not keep the others from it."""
        for brought in group:
            if not self._settled_alone(brought):
                self._settled_alone(brought.bare())

    def _settled_alone(self, brought: Brought) -> bool:
        try:
            self._settling.settle([brought])
        except TransientError:
            raise
        except Exception as error:
            broke("entry_unwritable", error, brought.grant)
            return False
        return True
