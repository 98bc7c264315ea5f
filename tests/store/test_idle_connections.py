"""A connection that broke while nobody used it is replaced; one that breaks in use is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from worker.domain.errors import TransientError
from worker.store import engine as opening
from worker.store.engine import open_engine, reading, writing


@pytest.fixture
def postgres(_migrated_postgres: str) -> Iterator[Engine]:
    engine = open_engine(_migrated_postgres, pool_size=2)
    yield engine
    engine.dispose()


def pid(engine: Engine) -> int:
    with writing(engine) as connection:
        return int(connection.scalar(text("SELECT pg_backend_pid()")))


def cut(url_of: Engine, backend: int) -> None:
    """As a restart of the server would."""
    other = open_engine(url_of.url.render_as_string(hide_password=False))
    with reading(other) as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": backend})
    other.dispose()


def test_one_that_broke_while_idle_is_replaced_unnoticed(
    postgres: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pid(postgres)
    cut(postgres, before)
    monkeypatch.setattr(opening, "IDLE", 0.0)
    assert pid(postgres) != before


def test_one_that_broke_a_moment_ago_is_told_once_and_then_replaced(
    postgres: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "IDLE", 3600.0)
    before = pid(postgres)
    cut(postgres, before)
    with pytest.raises(TransientError):
        pid(postgres)
    assert pid(postgres) != before
