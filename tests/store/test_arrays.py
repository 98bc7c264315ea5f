"""Columns packed in PostgreSQL's binary form arrive as they left."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from worker.domain.errors import PermanentError
from worker.store import arrays
from worker.store.engine import open_engine, reading

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_NEAR = {"min_value": datetime(1900, 1, 1), "max_value": datetime(2200, 1, 1)}
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "uuid": (arrays.uuids, st.none() | st.uuids()),
    "bigint": (arrays.integers, st.integers(-(2**63), 2**63 - 1)),
    "bytea": (arrays.blobs, st.none() | st.binary()),
    "text": (arrays.texts, st.none() | _TEXT),
    "timestamptz": (arrays.instants, st.none() | st.datetimes(**_NEAR, timezones=st.just(UTC))),
    "boolean": (arrays.flags, st.booleans()),
}


@pytest.fixture(scope="module")
def postgres(_migrated_postgres: str) -> Iterator[Engine]:
    engine = open_engine(_migrated_postgres)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_what_is_packed_is_what_the_server_reads(
    postgres: Engine, kind: str, data: st.DataObject
) -> None:
    pack, values = KINDS[kind]
    column = data.draw(st.lists(values, max_size=20))
    asked = f"SELECT v FROM unnest(%(column)s::{kind}[]) WITH ORDINALITY AS c(v, n) ORDER BY n"
    with reading(postgres) as connection:
        found = connection.exec_driver_sql(asked, {"column": pack(column)}).scalars().all()
    assert list(found) == column


def test_a_time_zone_is_no_part_of_an_instant(postgres: Engine) -> None:
    there = datetime(2026, 3, 1, 12, tzinfo=UTC) - timedelta(microseconds=1)
    with reading(postgres) as connection:
        asked = "SELECT (%(column)s::timestamptz[])[1]"
        found = connection.exec_driver_sql(asked, {"column": arrays.instants([there])}).scalar()
    assert found == there


def test_a_text_that_postgresql_cannot_hold_is_refused_and_not_cut(postgres: Engine) -> None:
    column = {"column": arrays.texts(["a\0b"])}
    with pytest.raises(PermanentError), reading(postgres) as connection:
        connection.exec_driver_sql("SELECT %(column)s::text[]", column)
