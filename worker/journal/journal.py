"""The journal of the process it runs in."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from worker.domain.attempt import Brought
from worker.domain.errors import ConfigurationError, TransientError
from worker.domain.ports import Offload
from worker.journal.reading import ours_alone, read
from worker.journal.records import HEAD, Mark, entry_of, framed
from worker.monitoring.metrics import JOURNAL_SYNC
from worker.settings import private_place

SEGMENT_BYTES = 64 << 20
SEGMENT_SECONDS = 3600.0
KEEP_SECONDS = 24 * 3600.0
STARTING = ".starting"  # a process that does not hold its lock yet, or died before it did


def node_of(data_directory: Path) -> str:
    """A name for the node that lives and dies with its data directory.

    Proof that a process is dead comes from files in there, so two nodes that share a host name
    but not the directory must not share a node name.
    """
    path = private_place(data_directory) / "node"
    try:
        with path.open("x") as file:
            file.write(f"{socket.gethostname()}-{secrets.token_hex(4)}")
    except FileExistsError:
        pass
    return path.read_text()


def new_process_name() -> str:
    """Unlike a bare pid this names one process for ever: pid, start time, and chance."""
    return f"{os.getpid()}-{int(time.time() * 1000):x}-{secrets.token_hex(4)}"


class Journal:
    """Appends in groups: whoever appends while a sync runs is in the next one.

    One task writes and nobody beside it: of two, one could sync the segment that the other opened.

    Raises on opening: ConfigurationError where the directory is a symlink, or others may read it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        process: str,
        offload: Offload,
        wall: Callable[[], float] = time.time,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        self.process = process
        self._directory = directory
        self._offload = offload
        self._wall = wall
        self._sync = sync
        self._number = 0
        self._waiting: list[tuple[int | None, bytes, asyncio.Future[None]]] = []
        self._marks: list[bytes] = []
        self._writer: asyncio.Task[None] | None = None
        self._unmarked: dict[int, int] = {}  # entry → segment
        private_directory(directory)
        self._lock = _locked(directory, process)
        self._segment = 0
        self._file = -1
        self._size = 0
        self._opened_at = 0.0
        self._open_segment()

    async def append(self, brought: Brought) -> int:
        """Durable when it returns; the entry's number, for `mark`.

        Raises: TransientError when the disk refuses. The caller still has the tokens.
        """
        self._number += 1
        number = self._number
        await self._written(number, framed(entry_of(brought, number)))
        return number

    def mark(self, entries: Sequence[int], counter: int) -> None:
        """The store has these entries. Written with the next group: losing it costs a replay."""
        for entry in entries:
            self._unmarked.pop(entry, None)
        self._marks.append(framed(Mark(entries=list(entries), counter=counter)))

    async def probe(self) -> bool:
        """Whether the disk takes appends (again)."""
        try:
            await self._written(None, b"")
        except TransientError:
            return False
        return True

    def history(self, above: int = 0) -> list[Brought]:
        """Of the last day, oldest first: what the store took as more than its `above`-th group of
        this process, or is not known to have (I24)."""
        return read(self._directory, self.process).history(above)

    def lacking(self) -> list[str]:
        """What of it cannot be read: files, and records that are lost."""
        found = read(self._directory, self.process)
        return found.unread + found.damaged

    async def close(self) -> None:
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)
        self._put(b"".join(self._marks))
        os.close(self._file)
        os.close(self._lock)

    async def _written(self, number: int | None, record: bytes) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((number, record, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        """Until nobody waits: one write and one sync for all who do."""
        while self._waiting:
            group, self._waiting = self._waiting, []
            marks, self._marks = self._marks, []
            data = b"".join((*marks, *(record for _, record, _ in group)))
            failure: Exception | None = None
            try:
                await self._offload(self._put, data)
            except Exception as error:  # ENOSPC, EIO; whatever it was, who waits must hear of it
                failure = error
                self._marks = marks + self._marks
            for number, _, done in group:
                if failure is None and number is not None:
                    self._unmarked[number] = self._segment
                if not done.done():
                    _tell(done, failure)

    def _put(self, data: bytes) -> None:
        """Write all of `data` and sync it, or leave the file as it was."""
        started = time.perf_counter()
        try:
            if self._file < 0 or self._full():
                self._open_segment()
            written = os.write(self._file, data)
            while written < len(data):
                written += os.write(self._file, data[written:])
            self._sync(self._file)
        except Exception:
            self._abandon_segment()  # what the page cache now holds nobody knows
            raise
        self._size += len(data)
        JOURNAL_SYNC.observe(time.perf_counter() - started)

    def _full(self) -> bool:
        return self._size > SEGMENT_BYTES or self._wall() - self._opened_at > SEGMENT_SECONDS

    def _open_segment(self) -> None:
        self._abandon_segment()
        self._segment += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = _open_private(self._path(self._segment), flags)
        os.write(self._file, HEAD)
        self._sync(self._file)
        _sync_directory(self._directory)
        self._size, self._opened_at = len(HEAD), self._wall()
        self._drop_old_segments()

    def _abandon_segment(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _drop_old_segments(self) -> None:
        """A day old and all of it in the store: no replay needs it any more."""
        needed = set(self._unmarked.values())
        for number in range(1, self._segment):
            path = self._path(number)
            if number in needed or not path.exists():
                continue
            if self._wall() - path.stat().st_mtime > KEEP_SECONDS:
                path.unlink()

    def _path(self, segment: int) -> Path:
        return self._directory / f"{self.process}.{segment:06d}.log"


def _tell(done: asyncio.Future[None], failure: Exception | None) -> None:
    if failure is None:
        done.set_result(None)
    else:
        why = f"journal: {getattr(failure, 'strerror', None) or type(failure).__name__}"
        done.set_exception(TransientError(why, code="journal_away"))


def private_directory(directory: Path) -> None:
    """Make it, or make sure that it is ours alone. Raises: ConfigurationError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = directory.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise ConfigurationError(f"{directory} is a symlink; name the directory itself")
    if found.st_uid != os.geteuid():
        raise ConfigurationError(f"{directory} belongs to somebody else")
    if found.st_mode & 0o077:
        raise ConfigurationError(f"{directory} may be read by others; {ours_alone(directory)}")


def _locked(directory: Path, process: str) -> int:
    """The lock of a living process, held before there is anything that others could take: between
    its creation and its locking they would have the proof that the process is dead.

    Raises: ConfigurationError, there was a process of that name.
    """
    starting, path = directory / f"{process}{STARTING}", directory / f"{process}.lock"
    lock = _open_private(starting, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.path.lexists(path):
        starting.unlink()
        os.close(lock)
        raise ConfigurationError(f"{path}: there was a process of that name")
    starting.rename(path)  # a lock is its open file's, whatever that is called
    return lock


def _open_private(path: Path, flags: int) -> int:
    """Open without following a symlink. Raises: ConfigurationError."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
