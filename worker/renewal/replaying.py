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
_AGAIN = 60.0  # seconds between tries to write what could not be written
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
        self._later: dict[str, float] = {}  # journals not written in full → when to try again
        self._lossy: set[str] = set()  # journals that have lost records, as was told
        self._compare_at = float("-inf")
        self._lacking_since: float | None = None  # entries of before, that a rollback lost
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
        if self._clock.monotonic() < self._compare_at:
            return False
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
        """A journal that was not written in full proves nothing (I4), and none waits for it."""
        count = 0
        now = self._clock.monotonic()
        waiting = {name for name, at in self._later.items() if now < at}
        with self._journals.unreplayed(but=waiting) as dead:
            for process in dead:
                count += 1
                try:
                    whole = self._bring(process, process.left)
                except TransientError:
                    break
                if whole:
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
        gone = [one.name for one in ours[1:] if one.name not in self._later]
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
        """Raises: TransientError, the store is away, or lacks still what could not be written."""
        lacking: list[_Known] = []
        with self._journals.all_dead() as dead:
            for process in dead:
                known = _Known(process.name, process.counter)
                whole = self._bring(process, process.history(self._above(process)))
                if whole and not process.damaged:
                    self._settling.restore_counter(known.name, known.counter)
                else:
                    lacking.append(known)
        own = self._own()
        lost = self._journal.lacking()
        for what in lost:
            _log.error("journal_unread", process=own.name, what=what)
        if self._settle(self._journal.history(self._above(own))) and not lost:
            self._settling.restore_counter(own.name, own.counter)
        else:
            lacking.append(own)
        self._wait_for_entries(lacking)

    def _wait_for_entries(self, lacking: Sequence[_Known]) -> None:
        """As for a node that never comes back: as long as a hold, and no longer."""
        now = self._clock.monotonic()
        if not lacking:
            self._lacking_since = None
            return
        if self._lacking_since is None:
            self._lacking_since = now
        if now - self._lacking_since < HOLD.total_seconds():
            self._compare_at = now + _AGAIN
            raise TransientError("store: lacks what stands in journals", code="not_replayed")
        _log.error("entries_never_written", processes=[one.name for one in lacking])
        for one in lacking:
            self._later.pop(one.name, None)
            self._settling.restore_counter(one.name, one.counter)
        self._lacking_since = None

    def _above(self, process: _Known | Dead) -> int:
        """From which group on the store may lack what it had."""
        return min(self._settling.counter(process.name), process.counter) - _MARGIN

    def _bring(self, process: Dead, entries: Sequence[Brought]) -> bool:
        """Whether the store has all that can be read of its journal, now or once its files are
        mended. Raises: TransientError, it is away."""
        if process.damaged and process.name not in self._lossy:
            self._lossy.add(process.name)
            _log.error("journal_damaged", process=process.name, what=process.damaged)
        for what in process.unread:
            _log.error("journal_unread", process=process.name, what=what)
        if not self._settle(entries) or process.unread:
            self._later[process.name] = self._clock.monotonic() + _AGAIN
            _log.error("journal_not_replayed", process=process.name, again_in_seconds=_AGAIN)
            return False
        self._later.pop(process.name, None)
        process.replayed()
        _log.info("journal_replayed", process=process.name, entries=len(entries))
        return True

    def _settle(self, entries: Sequence[Brought]) -> bool:
        """In the order they came, so that a successor finds its parent current; whether all are
        written."""
        whole = True
        for start in range(0, len(entries), _GROUP):
            group = entries[start : start + _GROUP]
            try:
                self._settling.settle(group)
            except TransientError:
                raise
            except Exception:
                whole = self._settle_apart(group) and whole
        return whole

    def _settle_apart(self, group: Sequence[Brought]) -> bool:
        """One that cannot be written must not keep the others from it."""
        written = [
            self._settled_alone(brought) or self._settled_alone(brought.bare()) for brought in group
        ]
        return all(written)

    def _settled_alone(self, brought: Brought) -> bool:
        try:
            self._settling.settle([brought])
        except TransientError:
            raise
        except Exception as error:
            broke("entry_unwritable", error, brought.grant)
            return False
        return True
