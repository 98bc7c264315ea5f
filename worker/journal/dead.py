"""Processes of this node that are gone, proved by their locks, and what they left to replay."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Container, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from worker.domain.attempt import Brought
from worker.journal.journal import KEEP_SECONDS, STARTING
from worker.journal.reading import LOSSY, Content, lossy, read


@dataclass(slots=True)
class DeadProcess:
    """A process that lives no more. We hold its lock, so nobody else replays it meanwhile."""

    name: str
    left: list[Brought]  # not marked: the store may lack them; in the order they came
    counter: int  # the highest count of its groups that the store confirmed
    damaged: list[str]  # records that are lost of it
    unread: list[str]  # files that are to be mended and may hold more; nothing of them is `left`
    _content: Content
    _directory: Path
    _lock: int

    def history(self, above: int = 0) -> list[Brought]:
        """What is left, and what is marked of the groups after the `above`-th: for a store that
        was rolled back (I24)."""
        return self._content.history(above)

    def replayed(self) -> None:
        """Everything left is in the store now: say so in its journal, which is kept for a day.

        Of one that has lost records nobody knows what it held, so it never counts as a proof (I4).
        """
        done = self._directory / f"{self.name}.done"
        if not self.damaged:
            done.touch(mode=0o600)
            return
        done.unlink(missing_ok=True)
        (self._directory / f"{self.name}{LOSSY}").touch(mode=0o600)

    def release(self) -> None:
        os.close(self._lock)


class NodeJournals:
    """All journals of this node, as one of its processes sees them."""

    def __init__(self, directory: Path, *, own: str, wall: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._own = own
        self._wall = wall
        self._gone: set[str] = set()  # replayed, and seen dead: so they are for ever

    @contextmanager
    def unreplayed(self, *, but: Container[str] = ()) -> Iterator[Iterator[DeadProcess]]:
        """Each dead process that left something, locked while the caller looks at it; but not
        those."""
        with closing(self._dead(again=False, but=but)) as found:
            yield found

    @contextmanager
    def all_dead(self) -> Iterator[Iterator[DeadProcess]]:
        """Those that were replayed, too (I24)."""
        with closing(self._dead(again=True)) as found:
            yield found

    def drop_old(self) -> None:
        """Remove the journals of processes that were replayed, and wrote nothing for a day."""
        for name in sorted({*self.replayed_names(), *lossy(self._directory)}):
            self._drop_if_old(name)
        for path in self._directory.glob(f"*{STARTING}"):
            with suppress(FileNotFoundError):  # it has started
                if self._wall() - path.stat().st_mtime > KEEP_SECONDS:
                    path.unlink()

    def names(self) -> frozenset[str]:
        """Every process that has a journal here, dead or alive."""
        return frozenset(path.name.removesuffix(".lock") for path in self._directory.glob("*.lock"))

    def replayed_names(self) -> frozenset[str]:
        """A mark beside a lock that somebody holds is not believed: that process lives."""
        done = {path.name.removesuffix(".done") for path in self._directory.glob("*.done")}
        new = done - self._gone - {self._own}
        self._gone = (done & self._gone) | {name for name in new if not self.is_alive(name)}
        return frozenset(self._gone)

    def living(self) -> frozenset[str]:
        """The other processes of this node that hold their locks."""
        return frozenset(name for name in self.names() - {self._own} if self.is_alive(name))

    def is_alive(self, process: str) -> bool:
        """Whether that process of this node still holds its lock."""
        lock = _try_lock(self._directory / f"{process}.lock")
        if lock is None:
            return (self._directory / f"{process}.lock").exists()
        os.close(lock)
        return False

    def _drop_if_old(self, name: str) -> None:
        """The lock goes last: what a crash leaves is a journal still."""
        held = self._directory / f"{name}.lock"
        if (lock := _try_lock(held)) is None:  # somebody looks at it just now
            return
        segments = sorted(self._directory.glob(f"{name}.*.log"))
        marks = [path for path in self._marks(name) if path.exists()]
        written = [path.stat().st_mtime for path in segments or marks]
        if written and self._wall() - max(written) > KEEP_SECONDS:
            for path in (*segments, *marks, held):
                path.unlink(missing_ok=True)
        os.close(lock)

    def _is_done(self, name: str) -> bool:
        return any(path.exists() for path in self._marks(name))

    def _marks(self, name: str) -> tuple[Path, Path]:
        return self._directory / f"{name}.done", self._directory / f"{name}{LOSSY}"

    def _dead(self, *, again: bool, but: Container[str] = ()) -> Generator[DeadProcess, None, None]:
        for path in sorted(self._directory.glob("*.lock")):
            name = path.name.removesuffix(".lock")
            if name == self._own or name in but or (not again and self._is_done(name)):
                continue
            lock = _try_lock(path)
            if lock is None:
                continue
            dead = _read(self._directory, name, lock)
            try:
                yield dead
            finally:
                dead.release()


def _try_lock(path: Path) -> int | None:
    try:
        lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _read(directory: Path, name: str, lock: int) -> DeadProcess:
    found = read(directory, name)
    return DeadProcess(
        name=name,
        left=found.left(),
        counter=found.counter,
        damaged=found.damaged,
        unread=found.unread,
        _content=found,
        _directory=directory,
        _lock=lock,
    )
