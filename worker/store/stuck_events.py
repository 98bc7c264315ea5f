"""Events that somebody has to look at: what failed, what could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Engine, Table, bindparam, delete, or_, select, update

from worker.domain.event import Source
from worker.store.engine import reading, writing
from worker.store.tables import InboxRow

_inbox = cast(Table, InboxRow.__table__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckEvent:
    """A row that somebody has to look at."""

    id: int
    tenant: str
    source: str
    trigger: str | None
    state: str  # "failed", "unreadable", or "new" after a failed attempt
    attempts: int
    error: str | None
    received_at: datetime
    progress: Mapping[str, Any]
    event: Mapping[str, Any]
    raw: bytes | None = field(default=None, repr=False)


class StuckEventRepository:
    """The part of the `inbox` table that waits for a human. Every method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def newest(self, *, limit: int = 100) -> list[StuckEvent]:
        """What failed or could not be read, newest first, and what is being retried."""
        wanted = or_(
            _inbox.c.state.in_(("failed", "unreadable")),
            (_inbox.c.state == "new") & (_inbox.c.attempts > 0),
        )
        query = select(*_STUCK).where(wanted).order_by(_inbox.c.received_at.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [StuckEvent(**row) for row in connection.execute(query).mappings()]

    def look(self, row_id: int) -> StuckEvent | None:
        """One row, however it stands."""
        query = select(*_STUCK).where(_inbox.c.id == row_id)
        with reading(self._engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
        return StuckEvent(**row) if row else None

    def replay(self, ids: Sequence[int] | None, *, now: datetime) -> int:
        """Let failed rows try again, from the action that failed; None: all of them."""
        failed = select(_inbox.c.id, _inbox.c.progress).where(_inbox.c.state == "failed")
        if ids is not None:
            failed = failed.where(_inbox.c.id.in_(ids))
        with writing(self._engine) as connection:
            rows = [
                {"b_id": id_, "b_progress": {k: v for k, v in progress.items() if v == "done"}}
                for id_, progress in connection.execute(failed.with_for_update())
            ]
            if rows:
                connection.execute(_REPLAY, [{**row, "b_now": now} for row in rows])
        return len(rows)

    def unreadable(self, ids: Sequence[int] | None = None) -> list[int]:
        """Rows that are kept raw, oldest first; of those named, or all."""
        query = select(_inbox.c.id).where(_inbox.c.state == "unreadable").order_by(_inbox.c.id)
        if ids is not None:
            query = query.where(_inbox.c.id.in_(ids))
        with reading(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def raw(self, row_id: int) -> tuple[str, Source, bytes] | None:
        """Tenant, source and bytes of an unreadable row, to read it again with newer code."""
        query = select(_inbox.c.tenant, _inbox.c.source, _inbox.c.raw).where(
            _inbox.c.id == row_id, _inbox.c.state == "unreadable"
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return (row[0], Source(row[1]), row[2]) if row else None

    def discard(self, row_id: int) -> bool:
        """Drop a row that failed or could not be read; whether there was such a one."""
        given_up = _inbox.c.state.in_(("unreadable", "failed"))
        gone = delete(_inbox).where(_inbox.c.id == row_id, given_up)
        with writing(self._engine) as connection:
            return connection.execute(gone).rowcount == 1


_STUCK = (
    _inbox.c.id,
    _inbox.c.tenant,
    _inbox.c.source,
    _inbox.c.trigger,
    _inbox.c.state,
    _inbox.c.attempts,
    _inbox.c.error,
    _inbox.c.received_at,
    _inbox.c.progress,
    _inbox.c.event,
    _inbox.c.raw,
)
_REPLAY = (
    update(_inbox)
    .where(_inbox.c.id == bindparam("b_id"))
    .values(
        state="new",
        attempts=0,
        progress=bindparam("b_progress"),
        next_at=bindparam("b_now"),
        lease_until=None,
        error=None,
    )
)
