"""What outlives a process: its node's journals, kept in memory."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from worker.domain.attempt import Brought


@dataclass
class Disk:
    """One node's journals: what was synced outlives the process."""

    entries: dict[str, list[Brought]] = field(default_factory=dict)
    marks: dict[str, dict[int, int]] = field(default_factory=dict)  # entry → count of its group
    counters: dict[str, int] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    full: bool = False

    def history(self, process: str, *, above: int | None) -> list[Brought]:
        """What is not marked, or of groups after the `above`-th. None: only what is not marked."""
        marks = self.marks[process]
        return [
            entry
            for number, entry in enumerate(self.entries[process], start=1)
            if number not in marks or (above is not None and marks[number] > above)
        ]


@dataclass
class DeadOnDisk:
    """Meets `Dead`."""

    disk: Disk
    name: str
    damaged: Sequence[str] = ()
    unread: Sequence[str] = ()

    @property
    def left(self) -> list[Brought]:
        return self.disk.history(self.name, above=None)

    def history(self, above: int = 0) -> list[Brought]:
        return self.disk.history(self.name, above=above)

    @property
    def counter(self) -> int:
        return self.disk.counters.get(self.name, 0)

    def replayed(self) -> None:
        self.disk.done.add(self.name)


class MemoryJournals:
    """Meets `NodeJournals`."""

    def __init__(self, disk: Disk, own: str) -> None:
        self._disk = disk
        self._own = own

    @contextmanager
    def unreplayed(self, *, but: Container[str] = ()) -> Iterator[Iterator[DeadOnDisk]]:
        over = self._disk.alive | self._disk.done
        names = [n for n in self._disk.entries if n not in over and n not in but]
        yield iter([DeadOnDisk(self._disk, name) for name in names])

    @contextmanager
    def all_dead(self) -> Iterator[Iterator[DeadOnDisk]]:
        names = [n for n in self._disk.entries if n not in self._disk.alive]
        yield iter([DeadOnDisk(self._disk, name) for name in names])

    def drop_old(self) -> None:
        """No storm lasts a day."""

    def names(self) -> frozenset[str]:
        return frozenset(self._disk.entries) | self._disk.alive

    def replayed_names(self) -> frozenset[str]:
        return frozenset(self._disk.done - self._disk.alive)

    def living(self) -> frozenset[str]:
        return frozenset(self._disk.alive - {self._own})

    def is_alive(self, process: str) -> bool:
        return process in self._disk.alive
