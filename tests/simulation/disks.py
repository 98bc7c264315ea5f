"""What outlives a process: its node's journals, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from worker.domain.attempt import Brought


@dataclass
class Disk:
    """One node's journals: what was synced outlives the process."""

    entries: dict[str, list[Brought]] = field(default_factory=dict)
    marked: dict[str, int] = field(default_factory=dict)  # process → how far
    marks: dict[str, set[int]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    full: bool = False


@dataclass
class DeadOnDisk:
    """Meets `Dead`."""

    disk: Disk
    name: str
    damaged: Sequence[str] = ()

    @property
    def left(self) -> list[Brought]:
        return self._of(marked=False)

    @property
    def kept(self) -> list[Brought]:
        return self._of(marked=True)

    @property
    def counter(self) -> int:
        return self.disk.counters.get(self.name, 0)

    def _of(self, *, marked: bool) -> list[Brought]:
        marks = self.disk.marks.get(self.name, set())
        entries = self.disk.entries.get(self.name, [])
        return [e for n, e in enumerate(entries, start=1) if (n in marks) is marked]

    def replayed(self) -> None:
        self.disk.done.add(self.name)


class MemoryJournals:
    """Meets `NodeJournals`."""

    def __init__(self, disk: Disk, own: str) -> None:
        self._disk = disk
        self._own = own

    @contextmanager
    def unreplayed(self) -> Iterator[Iterator[DeadOnDisk]]:
        names = [n for n in self._disk.entries if n not in self._disk.alive | self._disk.done]
        yield iter([DeadOnDisk(self._disk, name) for name in names])

    @contextmanager
    def all_dead(self) -> Iterator[Iterator[DeadOnDisk]]:
        names = [n for n in self._disk.entries if n not in self._disk.alive]
        yield iter([DeadOnDisk(self._disk, name) for name in names])

    def replayed_names(self) -> frozenset[str]:
        return frozenset(self._disk.done)

    def is_alive(self, process: str) -> bool:
        return process in self._disk.alive
