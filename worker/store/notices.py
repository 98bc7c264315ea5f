"""The outbox, as whoever sends its notices sees it. Writing into it is `worker.store.outbox`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Engine, Table, bindparam, delete, func, select, update

from worker.domain.ports import Notice
from worker.store import outbox
from worker.store.engine import reading, writing
from worker.store.tables import OutboxRow

_outbox = cast(Table, OutboxRow.__table__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingNotice:
    """A notice that is ours to send until `lease_until`."""

    id: int
    tenant: str
    kind: str
    episode: str
    grant_id: UUID | None
    notice: Mapping[str, Any]  # user_id, reason, key; "sent": the sinks that have it
    attempts: int
    created_at: datetime
    lease_until: datetime


class NoticeRepository:
    """The `outbox` table. `next_at` is the lease too: whoever claims a notice moves it on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def tell(self, notices: Sequence[Notice], *, now: datetime) -> None:
        """Put notices into the outbox that belong to no other change."""
        with writing(self._engine) as connection:
            outbox.add(connection, notices, now)

    def claim(self, *, now: datetime, lease_for: timedelta, limit: int) -> list[PendingNotice]:
        """Take the longest due; they come back by themselves when the lease ends."""
        due = (
            select(_outbox.c.id)
            .where(_outbox.c.next_at <= now)
            .order_by(_outbox.c.next_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        lease_until = now + lease_for
        take = (
            update(_outbox)
            .where(_outbox.c.id.in_(due))
            .values(next_at=lease_until)
            .returning(*_PENDING)
        )
        with writing(self._engine) as connection:
            rows = connection.execute(take).mappings().all()
        pending = (PendingNotice(**row, lease_until=lease_until) for row in rows)
        return sorted(pending, key=lambda one: one.id)

    def settle(
        self,
        pending: PendingNotice,
        *,
        sent: Sequence[str],
        next_at: datetime | None,
        error: str | None,
        now: datetime,
    ) -> None:
        """Write down which sinks have it. `next_at` None: sent, or given up with `error`."""
        notice = {**pending.notice, "sent": list(sent)}
        if error is not None:
            notice["error"] = error
        values = {
            "b_id": pending.id,
            "b_lease": pending.lease_until,
            "b_notice": notice,
            "b_attempts": pending.attempts + (error is not None),
            "b_next_at": next_at,
            "b_sent_at": now if error is None else None,
        }
        with writing(self._engine) as connection:
            connection.execute(_SETTLE, values)

    def told(self, tenant: str, kind: str) -> tuple[int, datetime, str] | None:
        """How many of a kind are kept, and of the last one when and why; None: there is none."""
        mine = (_outbox.c.tenant == tenant, _outbox.c.kind == kind)
        counted = select(func.count()).where(*mine)
        last = select(_outbox.c.created_at, _outbox.c.notice).where(*mine)
        latest = (_outbox.c.created_at.desc(), _outbox.c.id.desc())
        with reading(self._engine) as connection:
            row = connection.execute(last.order_by(*latest).limit(1)).first()
            count: int = connection.execute(counted).scalar_one()
        return (count, row.created_at, str(row.notice.get("reason") or "")) if row else None

    def oldest_age(self, *, now: datetime) -> timedelta | None:
        """How long the oldest unsent notice has waited; None: none waits."""
        query = select(func.min(_outbox.c.created_at)).where(_outbox.c.next_at.is_not(None))
        with reading(self._engine) as connection:
            oldest: datetime | None = connection.execute(query).scalar_one()
        return None if oldest is None else now - oldest

    def purge(self, *, before: datetime, limit: int = 5_000) -> int:
        """Forget notices made before that are sent or given up; an episode may then come again."""
        old = (
            select(_outbox.c.id)
            .where(_outbox.c.created_at < before, _outbox.c.next_at.is_(None))
            .order_by(_outbox.c.created_at)
            .limit(limit)
        )
        with writing(self._engine) as connection:
            return connection.execute(delete(_outbox).where(_outbox.c.id.in_(old))).rowcount


_PENDING = (
    _outbox.c.id,
    _outbox.c.tenant,
    _outbox.c.kind,
    _outbox.c.episode,
    _outbox.c.grant_id,
    _outbox.c.notice,
    _outbox.c.attempts,
    _outbox.c.created_at,
)
_SETTLE = (
    update(_outbox)
    .where(_outbox.c.id == bindparam("b_id"), _outbox.c.next_at == bindparam("b_lease"))
    .values(
        notice=bindparam("b_notice"),
        attempts=bindparam("b_attempts"),
        next_at=bindparam("b_next_at"),
        sent_at=bindparam("b_sent_at"),
    )
)
