"""The migrations and the tables say the same, on both databases."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from worker.domain.errors import ConfigurationError, WorkerError
from worker.store import migrate
from worker.store.engine import open_engine, reading, writing
from worker.store.tables import Base


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, never migrated."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fresh.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def fresh(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    yield engine
    engine.dispose()


def test_empty_to_head_is_what_the_tables_say(fresh: Engine) -> None:
    migrate.upgrade(fresh)
    with reading(fresh) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_there_is_one_head_and_the_names_of_the_files_tell_the_order() -> None:
    config = Config()
    config.set_main_option("script_location", "migrations")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == migrate.revisions()[-1:]
    walked = [script.revision for script in scripts.walk_revisions()]
    assert walked[::-1] == migrate.revisions()


def test_a_database_is_current_when_it_is_migrated_or_ahead(fresh: Engine) -> None:
    assert not migrate.is_current(fresh)
    migrate.upgrade(fresh, "0001")
    assert not migrate.is_current(fresh)
    migrate.upgrade(fresh)
    assert migrate.is_current(fresh)
    with writing(fresh) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert migrate.is_current(fresh)


def test_an_older_release_that_is_put_back_leaves_the_newer_schema_alone(fresh: Engine) -> None:
    migrate.upgrade(fresh)
    with writing(fresh) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    migrate.upgrade(fresh)
    assert migrate.revision_of(fresh) == "9999"


def test_down_to_nothing_and_up_again(fresh: Engine) -> None:
    migrate.upgrade(fresh)
    migrate.downgrade(fresh, "base")
    assert inspect(fresh).get_table_names() == ["alembic_version"]
    migrate.upgrade(fresh)
    assert migrate.is_current(fresh)


def test_processes_that_start_together_migrate_once(url: str) -> None:
    """The second waits for the first and finds nothing to do."""
    fork = multiprocessing.get_context("fork")  # Alembic's context is global to a process
    together = fork.Barrier(3)

    def start() -> None:
        together.wait()
        migrate.upgrade(open_engine(url))

    processes = [fork.Process(target=start) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_an_upgrade_that_fails_half_way_leaves_nothing(fresh: Engine) -> None:
    with writing(fresh) as connection:
        connection.execute(text("CREATE TABLE tenants (in_the_way int)"))
    with pytest.raises(WorkerError):
        migrate.upgrade(fresh)
    assert inspect(fresh).get_table_names() == ["tenants"]


def test_an_installation_without_migrations_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("worker.__file__", str(tmp_path / "worker" / "__init__.py"))
    with pytest.raises(ConfigurationError, match="incomplete"):
        migrate.is_current(open_engine(f"sqlite:///{tmp_path}/x.db"))


def test_postgres_keeps_room_for_claims_and_does_not_compress(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    migrate.upgrade(engine)
    storage = text(
        "SELECT attstorage::text FROM pg_attribute "
        "WHERE attrelid = 'grants'::regclass AND attname = 'refresh_token'"
    )
    options = text("SELECT reloptions FROM pg_class WHERE relname = 'grants'")
    with reading(engine) as connection:
        assert connection.scalar(storage) == "e"
        told = connection.scalar(options)
        assert {"fillfactor=70", "autovacuum_vacuum_scale_factor=0.05"} <= set(told)
    engine.dispose()
