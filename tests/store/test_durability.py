"""Settings that lose rotated tokens are named."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from worker.domain.errors import TransientError
from worker.store.durability import durability_problems
from worker.store.engine import open_engine, reading, writing


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


def test_processes_that_open_a_new_file_together_wait_for_the_one_that_sets_it_up(
    tmp_path: Path,
) -> None:
    """SQLite says "locked" at once, without its busy time, to whoever comes second."""
    url = f"sqlite:///{tmp_path}/new.db"
    first = sqlite3.connect(tmp_path / "new.db", isolation_level=None, check_same_thread=False)
    first.execute("BEGIN IMMEDIATE")
    released = threading.Timer(0.2, first.rollback)
    released.start()
    with reading(open_engine(url)) as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
    released.join()
    first.close()


@pytest.mark.parametrize(
    "refusal", ["read_only_sql_transaction", "insufficient_privilege", "undefined_table"]
)
def test_what_its_operator_can_mend_is_not_taken_for_a_fault_of_what_is_written(
    engine: Engine, refusal: str
) -> None:
    """A managed PostgreSQL makes itself read-only while its disk is nearly full."""
    refused = f"DO $$ BEGIN RAISE 'no' USING ERRCODE = '{refusal}'; END $$"
    if engine.dialect.name == "sqlite":
        refused = "DELETE FROM never_migrated"
    with pytest.raises(TransientError), writing(engine) as connection:
        connection.exec_driver_sql(refused)


def test_a_full_disk_is_a_store_that_is_away_for_a_while(engine: Engine) -> None:
    """It refuses the write and goes on; whatever was to be written is tried again."""
    refused = "DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
    if engine.dialect.name == "sqlite":
        refused = "CREATE TABLE more AS SELECT zeroblob(10000000)"
        with reading(engine) as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")  # no more than there are
    with pytest.raises(TransientError), writing(engine) as connection:
        connection.exec_driver_sql(refused)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
