"""How far a backfill is, and where the next one goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Counts go on from the run before; times and rates are of this run alone.

    `failed` ids are to be tried again by hand; the rest needs nobody.
    """

    done: int = 0
    gone: int = 0  # no such user: deleted since, or linked to another
    failed: tuple[str, ...] = ()
    before: int = 0  # of `done` and `gone`: by runs that were stopped
    total: int | None = None  # of a whole tenant as the search index has it; None: not told
    seconds: float = 0.0
    ceiling: float = 0.0  # requests per second that the budget allows for
    trouble: str = ""  # why the last user could not be read at once; "": he could

    @property
    def passed(self) -> int:
        return self.done + self.gone + len(self.failed)

    @property
    def rate(self) -> float:
        """Users per second, in this run."""
        read = self.done + self.gone - self.before
        return read / self.seconds if self.seconds else 0.0

    @property
    def eta(self) -> timedelta | None:
        if self.total is None or not self.rate:
            return None
        return timedelta(seconds=max(0, self.total - self.passed) / self.rate)


def saved_of(progress: Progress, place: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that is stopped here leaves behind."""
    told = {"done": progress.done, "gone": progress.gone, "failed": list(progress.failed)}
    return {**told, "place": dict(place)}


def resumed_from(saved: Mapping[str, Any]) -> tuple[Progress, Mapping[str, Any]]:
    """(progress so far, place to go on from); nothing saved: from the beginning."""
    done, gone = int(saved.get("done", 0)), int(saved.get("gone", 0))
    progress = Progress(
        done=done, gone=gone, before=done + gone, failed=tuple(saved.get("failed", ()))
    )
    return progress, saved.get("place", {})


class Checkpoint(Protocol):
    """Where a backfill that was stopped goes on; the store's `BackfillRepository`."""

    def begin(
        self, tenant: str, what: str, run: str, *, now: datetime, anew: bool = False
    ) -> Mapping[str, Any]: ...

    def save(
        self, tenant: str, what: str, run: str, state: Mapping[str, Any], *, now: datetime
    ) -> bool: ...

    def end(self, tenant: str, what: str, run: str) -> None: ...
