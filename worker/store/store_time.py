"""The one clock for times that several processes compare: the store's own.

Two processes whose clocks are minutes apart would else find a second look due before the first is
over, or a lease ended that runs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

StoreTime = Callable[[Connection, datetime], datetime]


def store_time(connection: Connection, own: datetime) -> datetime:
    """PostgreSQL's clock; on SQLite, where all processes share a host, the caller's `own`."""
    if connection.dialect.name != "postgresql":
        return own
    now: datetime = connection.execute(select(func.now())).scalar_one()
    return now.astimezone(UTC)
