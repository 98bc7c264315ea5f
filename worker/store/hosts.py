"""Provider hosts that asked us to wait, known to every process."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Engine, bindparam, case, delete, func, select

from worker.store.engine import reading, writing
from worker.store.tables import HostRow
from worker.store.upsert import insert_into

_BLOCKED = select(HostRow.host, HostRow.blocked_until).where(
    HostRow.blocked_until > bindparam("now")
)


class HostRepository:
    """The `hosts` table. A block is only ever made longer, until it ends or a success lifts it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def block(self, host: str, until: datetime, why: str, *, now: datetime | None = None) -> None:
        """Nothing goes to `host` ("name" or "name:port") before `until`."""
        values = {
            "host": host,
            "blocked_until": until,
            "why": why,
            "failures": 1,
            "updated_at": now or datetime.now(UTC),
        }
        with writing(self._engine) as connection:
            statement = insert_into(connection, HostRow).values(values)
            fresh = statement.excluded
            longer = fresh.blocked_until > func.coalesce(HostRow.blocked_until, HostRow.updated_at)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["host"],
                    set_={
                        "blocked_until": case(
                            (longer, fresh.blocked_until), else_=HostRow.blocked_until
                        ),
                        "why": case((longer, fresh.why), else_=HostRow.why),
                        "failures": HostRow.failures + 1,
                        "updated_at": fresh.updated_at,
                    },
                )
            )

    def blocked(self, now: datetime) -> dict[str, datetime]:
        """Host to the end of its block, for blocks that still hold."""
        with reading(self._engine) as connection:
            rows = connection.execute(_BLOCKED, {"now": now})
            return {row.host: row.blocked_until for row in rows}

    def clear(self, host: str) -> None:
        """It answered: forget its failures."""
        with writing(self._engine) as connection:
            connection.execute(delete(HostRow).where(HostRow.host == host))
