"""Queue messages that could not be understood, kept for a human."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine, delete, insert, or_, select

from worker.store.engine import reading, writing
from worker.store.tables import DeadMessageRow

KEPT_BYTES = 64 * 1024
KEPT = 10_000  # messages: 640 MB at most


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    id: int
    queue: str
    why: str
    body: bytes = field(repr=False)  # as it came, cut to 64 KiB
    received_at: datetime


class DeadMessageRepository:
    """The `dead_messages` table."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, queue: str, *, why: str, body: bytes, now: datetime) -> None:
        values = {"queue": queue, "why": why, "body": body[:KEPT_BYTES], "received_at": now}
        with writing(self._engine) as connection:
            connection.execute(insert(DeadMessageRow).values(values))

    def newest(self, limit: int = 100) -> Sequence[DeadMessage]:
        table = DeadMessageRow.__table__
        with reading(self._engine) as connection:
            rows = connection.execute(select(table).order_by(table.c.id.desc()).limit(limit))
            return [DeadMessage(**row) for row in rows.mappings()]

    def look(self, message_id: int) -> DeadMessage | None:
        table = DeadMessageRow.__table__
        with reading(self._engine) as connection:
            found = connection.execute(select(table).where(table.c.id == message_id)).mappings()
            row = found.one_or_none()
        return DeadMessage(**row) if row else None

    def drop(self, ids: Sequence[int]) -> int:
        """Forget these; returns how many there were."""
        with writing(self._engine) as connection:
            gone = connection.execute(delete(DeadMessageRow).where(DeadMessageRow.id.in_(ids)))
            return gone.rowcount

    def purge(self, *, before: datetime, limit: int = 5_000, most: int = KEPT) -> int:
        """Forget the old ones, and all but the newest `most`: whoever can publish could fill the
        disk otherwise. At most `limit` at a time; returns how many."""
        table = DeadMessageRow
        newest = select(table.id).order_by(table.id.desc()).offset(most).limit(1).scalar_subquery()
        old = or_(table.received_at < before, table.id <= newest)
        gone = select(table.id).where(old).order_by(table.id).limit(limit)
        with writing(self._engine) as connection:
            return connection.execute(delete(table).where(table.id.in_(gone))).rowcount
