"""Settings that lose rotated tokens are named."""

from __future__ import annotations

from sqlalchemy import Engine

from worker.store.durability import durability_problems


def test_our_own_settings_are_durable(sqlite_engine: Engine) -> None:
    assert durability_problems(sqlite_engine) == []


def test_a_database_that_may_forget_is_named(engine: Engine) -> None:
    """The tests' own PostgreSQL does not sync, and is told off for it."""
    if engine.dialect.name == "sqlite":
        pooled = engine.raw_connection()
        pooled.cursor().execute("PRAGMA synchronous=NORMAL")
        pooled.close()
        assert "synchronous=FULL" in str(durability_problems(engine))
    else:
        assert "fsync=off" in str(durability_problems(engine))
        assert "full_page_writes=off" in str(durability_problems(engine))
