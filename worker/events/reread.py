"""Reading again what an older version could not: rows of the inbox that were kept raw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from worker.domain.event import Source
from worker.events.accept import Intake
from worker.events.bodies import Reading


class RawRows(Protocol):
    """See `worker.store.stuck_events.StuckEventRepository`."""

    def unreadable(self, ids: Sequence[int] | None) -> Sequence[int]: ...

    def raw(self, row_id: int) -> tuple[str, Source, bytes] | None: ...

    def discard(self, row_id: int) -> object: ...


def reread(intake: Intake, rows: RawRows, ids: Sequence[int] | None = None) -> tuple[int, int]:
    """Read raw rows with today's code; returns how many are mended and how many are not.

    None: all of them. A row goes once its events are in the inbox; one of which a part is still
    unreadable stays for a human. Raises: TransientError, store away.
    """
    mended = left = 0
    for row_id in rows.unreadable(ids):
        if (found := rows.raw(row_id)) is None:
            continue  # somebody else was faster
        tenant, source, raw = found
        if not intake.knows(tenant):
            left += 1
            continue
        reading = intake.read(tenant, source, raw)
        intake.take(tenant, source, Reading(reading.events, ignored=reading.ignored))
        if reading.unreadable:
            left += 1
        else:
            rows.discard(row_id)
            mended += 1
    return mended, left
