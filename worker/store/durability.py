"""Whether the database really keeps what it said it kept: a rotated token lost is lost for good."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Engine, text

from worker.store.engine import reading


def durability_problems(engine: Engine) -> Sequence[str]:
    """Sentences for the operator; empty: an acknowledged commit survives a crash."""
    with reading(engine) as connection:
        if connection.dialect.name == "postgresql":
            return _postgres(connection)
        return _sqlite(connection)


def _postgres(connection: Connection) -> list[str]:
    """https://www.postgresql.org/docs/current/runtime-config-wal.html#RUNTIME-CONFIG-WAL-SETTINGS"""
    wrong = {
        "fsync": ("off", "PostgreSQL runs with fsync=off: a power cut loses rotated tokens"),
        "full_page_writes": (
            "off",
            "PostgreSQL runs with full_page_writes=off: a power cut may tear pages",
        ),
        "synchronous_commit": (
            "off",
            "PostgreSQL answers commits before they are on disk (synchronous_commit=off): a crash "
            "brings spent refresh tokens back",
        ),
    }
    found = {name: connection.scalar(text(f"SHOW {name}")) for name in wrong}
    return [told for name, (bad, told) in wrong.items() if found[name] == bad]


def _sqlite(connection: Connection) -> list[str]:
    """https://www.sqlite.org/pragma.html#pragma_synchronous (2 is FULL)"""
    problems = []
    if connection.scalar(text("PRAGMA synchronous")) < 2:
        problems.append("SQLite runs below synchronous=FULL: a power cut loses rotated tokens")
    if connection.scalar(text("PRAGMA journal_mode")) != "wal":
        problems.append("SQLite does not use its write-ahead log: readers wait for writers")
    return problems
