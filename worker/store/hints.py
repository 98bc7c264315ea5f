"""Which hints are on their way, so that ticks do not pile up behind a slow worker."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, select

from worker.store.engine import reading, writing
from worker.store.tables import HintRow
from worker.store.upsert import insert_into


class HintRepository:
    """The `hints` table: at most one hint outstanding per subject, over all processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def take(self, subject: str, now: datetime, for_: timedelta) -> bool:
        """True: nobody else's hint is outstanding, and until `now + for_` ours is."""
        with reading(self._engine) as connection:  # most ticks end here, without a write
            held = select(HintRow.outstanding_until).where(HintRow.subject == subject)
            until = connection.scalar(held)
        return (until is None or until <= now) and self._write(subject, now, now + for_)

    def clear(self, subject: str) -> None:
        """The hint arrived; the next tick may send another."""
        with writing(self._engine) as connection:
            connection.execute(delete(HintRow).where(HintRow.subject == subject))

    def _write(self, subject: str, now: datetime, until: datetime) -> bool:
        values = {"subject": subject, "sent_at": now, "outstanding_until": until}
        with writing(self._engine) as connection:
            statement = insert_into(connection, HintRow).values(values)
            taken = connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["subject"],
                    set_={"sent_at": now, "outstanding_until": until},
                    where=HintRow.outstanding_until <= now,
                ).returning(HintRow.subject)
            )
            return taken.first() is not None
