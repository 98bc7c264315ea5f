"""How a grant's row lies on PostgreSQL: what a claim writes to the write-ahead log, in bytes.

The log is the scarce thing at scale, and bytes do not depend on who else uses the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from tests.clock import FakeClock
from tests.planted import plant
from worker.store import migrate
from worker.store.claims import ClaimsRepository
from worker.store.engine import open_engine, reading, writing

NOW = datetime.now(UTC) - timedelta(seconds=5)
GRANTS = 12
# A transaction of a neighbour's database keeps old versions from being pruned for a moment, and a
# checkpoint has a page logged whole. What the order of columns costs, it costs in every round.
_ROUNDS = 8


@pytest.fixture
def fresh(postgres_url: str) -> Iterator[Engine]:
    engine = open_engine(postgres_url)
    yield engine
    engine.dispose()


def logged_by_a_claim(engine: Engine) -> float:
    """Bytes per grant of the product's own statement, as PostgreSQL counts them."""
    sent: list[Any] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        sent.append((statement, parameters))

    claims = ClaimsRepository(engine, node="n", process="p", clock=FakeClock(NOW))
    asked = {"each": GRANTS, "lease": 60.0, "since": {}}
    assert len(claims.claim_due("google-oauth2", ["acme"], **asked)) == GRANTS
    event.remove(engine, "before_cursor_execute", _note)
    (statement, parameters) = next(one for one in sent if "UPDATE grants" in one[0])
    return min(_logged_once(engine, statement, parameters) for _ in range(_ROUNDS))


def _logged_once(engine: Engine, statement: str, parameters: Any) -> float:
    with writing(engine) as db:  # the same rows anew: free, and pruned as in daily life
        db.execute(text("UPDATE grants SET attempt = NULL"))
    with writing(engine) as db:
        explain = f"EXPLAIN (ANALYZE, WAL, FORMAT JSON) {statement}"
        (plan,) = db.exec_driver_sql(explain, parameters).scalar_one()
        assert plan["Plan"]["Actual Rows"] == GRANTS
        return float(plan["Plan"]["WAL Bytes"]) / GRANTS


@pytest.mark.parametrize("size", [1000, 1500])
def test_a_claim_logs_its_own_columns_and_no_ciphertext(
    fresh: Engine, vault: Any, size: int
) -> None:
    migrate.upgrade(fresh)
    for number in range(GRANTS):
        token = f"{number}-".ljust(size, "x")
        plant(fresh, vault, now=NOW, rt=token, at=token)
    assert logged_by_a_claim(fresh) < 450


def test_writing_the_table_anew_keeps_rows_keys_and_privileges(fresh: Engine, vault: Any) -> None:
    migrate.upgrade(fresh, "0004")
    grant = plant(fresh, vault, now=NOW, attempt=None, last_generation=7, fence=3)
    with writing(fresh) as db:
        role = f"reader_{grant.hex[:8]}"
        db.execute(text(f"CREATE ROLE {role}"))
        db.execute(text(f"GRANT SELECT ON grants TO {role}"))
    before, shape = _whole(fresh, grant), _shape(fresh)
    migrate.upgrade(fresh, "0005")
    assert _whole(fresh, grant) == before
    assert _shape(fresh) == shape
    with writing(fresh) as db:
        held = text("SELECT has_table_privilege(:role, 'grants', 'SELECT')")
        assert db.scalar(held, {"role": role})
        db.execute(text(f"REVOKE ALL ON grants FROM {role}"))
        db.execute(text(f"DROP ROLE {role}"))


def _whole(engine: Engine, grant: Any) -> dict[str, Any]:
    """With the columns of its day: later revisions have added some."""
    with reading(engine) as db:
        asked = db.execute(text("SELECT * FROM grants WHERE id = :id"), {"id": grant})
        return dict(asked.one()._mapping)


def _shape(engine: Engine) -> list[Any]:
    """Columns, types, defaults, indexes, constraints: all but the order."""
    with reading(engine) as db:
        return sorted(
            str(row)
            for query in (
                "SELECT column_name, data_type, is_nullable, column_default "
                "FROM information_schema.columns WHERE table_name = 'grants'",
                "SELECT indexname, split_part(indexdef, ' WHERE ', 1), indexdef LIKE '% WHERE %' "
                "FROM pg_indexes WHERE tablename = 'grants'",
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE conrelid = 'grants'::regclass",
                "SELECT attname, attstorage::text FROM pg_attribute "
                "WHERE attrelid = 'grants'::regclass AND attnum > 0",
            )
            for row in db.execute(text(query))
        )
