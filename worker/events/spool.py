"""Where events wait while the store is away: an append-only file, fsynced before the 2xx (I2).

Lines are JSON and hold what inbox rows hold: ids, and the raw bytes of what could not be read. A
write that a crash cut was never acknowledged; its torn line is skipped.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from worker.domain.errors import TransientError
from worker.domain.event import Event, Source
from worker.events.bodies import Reading, Unreadable


class _Line(msgspec.Struct, omit_defaults=True):
    """One delivery as it waits."""

    tenant: str
    source: Source
    events: list[Event] = []
    unreadable: list[Unreadable] = []


_decode = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode

Take = Callable[[str, Source, Reading], object]


class Spool:
    """One file per data directory; safe with any number of processes and threads."""

    def __init__(self, directory: Path, *, limit: int = 256 * 1024 * 1024) -> None:
        """`limit` bytes; beyond it `append` refuses, so that a full disk stays the store's."""
        self._path = directory / "inbox.spool"
        self._limit = limit
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def append(self, tenant: str, source: Source, reading: Reading) -> None:
        """Returns once it is on disk. Raises: TransientError when it cannot be put there."""
        line = _encode(_Line(tenant, source, reading.events, reading.unreadable))
        try:
            with self._locked(fcntl.LOCK_EX) as fd:
                end = os.fstat(fd).st_size
                if end + len(line) > self._limit:
                    raise TransientError("spool: full", code="spool_full")
                # a line feed on both sides: a torn line before us must not swallow this one
                _write_or_undo(fd, b"\n" + line + b"\n", end)
        except OSError as error:
            raise TransientError(f"spool: {error.strerror}", code="spool_away") from error

    def drain(self, take: Take) -> int:
        """Hand every delivery to `take`, then forget them; returns how many there were.

        When `take` raises, all stay (repeats are harmless: the inbox knows them). While another
        process drains or appends, nothing happens and the next call looks again.
        """
        if not self.waiting():
            return 0
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB) as fd:
                count = 0
                for line in _lines(fd):
                    take(line.tenant, line.source, Reading(line.events, line.unreadable))
                    count += 1
                os.ftruncate(fd, 0)
                os.fsync(fd)
                return count
        except BlockingIOError:
            return 0

    def waiting(self) -> bool:
        """Whether there is anything to drain."""
        try:
            return self._path.stat().st_size > 0
        except FileNotFoundError:
            return False

    @contextmanager
    def _locked(self, how: int) -> Iterator[int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(fd, how)
            yield fd
        finally:
            os.close(fd)  # and with it the lock


def _write_or_undo(fd: int, data: bytes, end: int) -> None:
    try:
        written = 0
        while written < len(data):
            written += os.write(fd, data[written:])
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, end)
        raise


def _lines(fd: int) -> Iterator[_Line]:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        for line in file:
            if line.strip():
                try:
                    yield _decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue  # torn: its sender never heard 2xx
