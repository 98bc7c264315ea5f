"""INSERT … ON CONFLICT, which both databases have and SQLAlchemy spells once for each."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from worker.store.tables import Base


def insert_into(connection: Connection, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """An insert that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement: postgresql.Insert | sqlite.Insert = dialect.insert(table)
    return statement
