"""Where the audit's chains ended, noted outside the database, so that a rewrite of it shows.

One JSON object a line, appended and synced: the heads that moved since the line before, and an
HMAC over the line and the HMAC before it; begun anew with the last heads when it is large.
Whoever may write to the database cannot write here.
Ship the file off the machine to be safe from somebody who may write to both.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

from sqlalchemy import Engine

from worker.domain.errors import TamperError
from worker.store import audit
from worker.store.audit import Head

_LARGE = 1 << 20  # bytes; weeks of a busy installation


class Sealer(Protocol):
    """The vault, as far as anchors need it."""

    def authenticate(self, message: bytes) -> bytes: ...

    def authentic(self, message: bytes, tag: bytes) -> bool: ...


class Anchors:
    """An append-only file in the data directory; processes of one host may share it."""

    def __init__(self, path: Path, sealer: Sealer) -> None:
        self._path, self._sealer = path, sealer

    def note(self, engine: Engine, now: datetime) -> int:
        """Append the heads that moved since the last time; returns how many did.

        Raises: TamperError when the file is not what we wrote; nothing is then appended to it.
        """
        with self._locked() as file:
            content = _whole_lines(file.read())
            lines = list(self._lines(content))
            known = {head for line in lines for head in _heads(line)}
            moved = [head for head in audit.heads(engine) if head not in known]
            if len(content) > _LARGE:
                self._begin_anew([*known, *moved], now)
            elif moved:
                file.seek(len(content))
                file.truncate()
                file.write(self._line(moved, now, lines[-1]["tag"] if lines else ""))
                file.flush()
                os.fsync(file.fileno())
            return len(moved)

    def heads(self) -> list[Head]:
        """Every head ever noted, for `audit.verify`. Raises: TamperError."""
        content = self._path.read_bytes() if self._path.exists() else b""
        return [head for line in self._lines(_whole_lines(content)) for head in _heads(line)]

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        """The file, ours alone; opened again if another process replaced it while we waited."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                    yield file
                    return

    def _begin_anew(self, heads: list[Head], now: datetime) -> None:
        """Keep only each chain's last head: its hash covers all that came before it."""
        last = {head.chain: head for head in sorted(heads, key=lambda head: head.seq)}
        fresh = self._path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(self._line(list(last.values()), now, ""))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _line(self, moved: list[Head], now: datetime, previous: str) -> bytes:
        heads = [[head.chain, head.seq, head.hash.hex()] for head in moved]
        line = {"at": now.isoformat(), "heads": heads, "previous": previous}
        line["tag"] = self._sealer.authenticate(_canonical(line)).hex()
        return _canonical(line) + b"\n"

    def _lines(self, content: bytes) -> Iterator[dict[str, Any]]:
        previous = ""
        for number, text in enumerate(content.split(b"\n")[:-1], start=1):
            line = self._parsed(number, text)
            if line["previous"] != previous:
                raise TamperError(f"{self._path} line {number}: the one before it is missing")
            previous = line["tag"]
            yield line

    def _parsed(self, number: int, text: bytes) -> dict[str, Any]:
        try:
            line: dict[str, Any] = json.loads(text)
            unsigned = {name: line[name] for name in ("at", "heads", "previous")}
            right = self._sealer.authentic(_canonical(unsigned), bytes.fromhex(line["tag"]))
        except (ValueError, KeyError, TypeError):
            right, line = False, {}
        if not right:
            raise TamperError(f"{self._path} line {number}: not as we wrote it")
        return line


def _whole_lines(content: bytes) -> bytes:
    """Without what a crash left of a last line."""
    return content[: content.rfind(b"\n") + 1]


def _heads(line: dict[str, Any]) -> Iterator[Head]:
    for chain, seq, digest in line["heads"]:
        yield Head(chain, seq, bytes.fromhex(digest))


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
