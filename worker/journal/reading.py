"""What a process has written into its journal, read back."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from worker.domain.attempt import Brought
from worker.journal.records import Entry, Mark, brought_of, records_in

LOSSY = ".lossy"  # beside a journal: replayed as far as it could be read, and it had lost records


@dataclass(slots=True)
class Content:
    """All segments of one process."""

    entries: dict[int, Entry] = field(default_factory=dict)
    marked: dict[int, int] = field(default_factory=dict)  # entry → count of its group
    counter: int = 0  # the highest count of its groups that the store confirmed
    damaged: list[str] = field(default_factory=list)  # records that are lost
    unread: list[str] = field(default_factory=list)  # files, and how to mend them

    def left(self) -> list[Brought]:
        """Entries that the store may lack; oldest first."""
        return self._brought(n for n in self.entries if n not in self.marked)

    def history(self, above: int) -> list[Brought]:
        """Those, and what the store had of the groups after the `above`-th; oldest first."""
        return self._brought(n for n in self.entries if self.marked.get(n, above + 1) > above)

    def _brought(self, numbers: Iterable[int]) -> list[Brought]:
        return [brought_of(self.entries[n]) for n in sorted(numbers)]


def read(directory: Path, process: str) -> Content:
    found = Content()
    for path in sorted(directory.glob(f"{process}.*.log")):
        try:
            if problem := _not_ours(path):
                found.unread.append(problem)
            else:
                _read_segment(path, found)
        except FileNotFoundError:  # old, and dropped just now
            continue
        except OSError as error:
            found.unread.append(f"{path}: {error.strerror}")
    return found


def lossy(directory: Path) -> list[str]:
    """Processes whose journals have lost records, until those are dropped."""
    return sorted(path.name.removesuffix(LOSSY) for path in directory.glob(f"*{LOSSY}"))


def not_readable(directory: Path) -> list[str]:
    """Files that no replay reads, and how to mend them."""
    return [told for path in sorted(directory.glob("*.log")) if (told := _not_ours(path))]


def _read_segment(path: Path, found: Content) -> None:
    for record in records_in(path.read_bytes()):
        if isinstance(record, Mark):
            found.marked.update(dict.fromkeys(record.entries, record.counter))
            found.counter = max(found.counter, record.counter)
        elif isinstance(record, Entry):
            found.entries[record.number] = record
        else:
            found.damaged.append(f"{path.name}: {record.what}")


def _not_ours(path: Path) -> str | None:
    """Why the file is not read, which somebody else could have written, and what to do."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a symlink; put the file itself there"
    if found.st_uid != os.geteuid():
        return f"{path} belongs to somebody else; chown {os.geteuid()} {path}"
    if found.st_mode & 0o077:
        return f"{path} may be read by others; {ours_alone(path.parent)}"
    return None


def ours_alone(directory: Path) -> str:
    """The command that makes it so: for the files too, as whoever opens a directory to a group
    (a volume's `fsGroup`) opens them as well."""
    return f"chmod 700 {directory} && chmod 600 {directory}/*"
