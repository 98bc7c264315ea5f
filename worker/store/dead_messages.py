"""Queue messages that could not be understood, kept for a human."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine, delete, insert, select

from worker.store.engine import reading, writing
from worker.store.tables import DeadMessageRow

KEPT_BYTES = 64 * 1024


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

    def drop(self, ids: Sequence[int]) -> int:
        """Forget these; returns how many there were."""
        with writing(self._engine) as connection:
            gone = connection.execute(delete(DeadMessageRow).where(DeadMessageRow.id.in_(ids)))
            return gone.rowcount

    def drop_before(self, moment: datetime) -> int:
        """Forget the old ones; returns how many there were."""
        with writing(self._engine) as connection:
            old = DeadMessageRow.received_at < moment
            return connection.execute(delete(DeadMessageRow).where(old)).rowcount
