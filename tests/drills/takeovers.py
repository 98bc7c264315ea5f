"""How long what a killed worker had begun lies before another one has it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any


class Takeovers:
    """Looks at the store while it is there; an attempt that an outage delays is not counted."""

    def __init__(self, rows: Callable[[], Sequence[Any]], connections: Collection[str]) -> None:
        self._rows = rows
        self._connections = connections
        self._orphans: dict[tuple[Any, Any], float] = {}  # grant and attempt: since when
        self._ended = threading.Event()
        self.seconds: list[float] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def killed(self, pid: int) -> None:
        """What it held is nobody's from now on."""
        now = time.monotonic()
        for row in self._rows():
            mine = row.attempt is not None and str(row.claim_process).startswith(f"{pid}-")
            if mine and row.connection in self._connections:
                self._orphans[row.id, row.attempt] = now

    def store_goes(self) -> None:
        self._orphans.clear()

    def end(self) -> None:
        self._ended.set()

    def p99(self) -> float | None:
        ordered = sorted(self.seconds)
        return round(ordered[int(0.99 * (len(ordered) - 1))], 2) if ordered else None

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            if not self._orphans:
                continue
            held = {(row.id, row.attempt) for row in self._rows()}
            now = time.monotonic()
            if not held:
                continue  # the store is away
            for orphan, since in list(self._orphans.items()):
                if orphan not in held and self._orphans.pop(orphan, None) is not None:
                    self.seconds.append(now - since)
