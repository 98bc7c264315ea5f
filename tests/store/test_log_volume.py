"""How a grant's row lies on PostgreSQL: what a claim writes to the write-ahead log, in bytes.

The log is the scarce thing at scale, and bytes do not depend on who else uses the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from tests.benchmarks.store_stage import (
    GROUP,
    PROVIDER,
    TENANT,
    Database,
    Filling,
    brought,
    claims_of,
    settling_of,
)
from tests.clock import FakeClock
from tests.planted import plant
from worker.domain.attempt import Fate
from worker.store import migrate
from worker.store.claims import ClaimsRepository
from worker.store.engine import open_engine, reading, writing

NOW = datetime.now(UTC) - timedelta(seconds=5)
GRANTS = 12
# A checkpoint has a page logged whole. What the order of columns costs, it costs in every round.
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
    with writing(engine) as db:  # the same rows anew, free
        db.execute(text("UPDATE grants SET attempt = NULL"))
    with reading(engine) as db:  # pruning would do, if no neighbour's transaction were in its way
        db.execute(text("VACUUM grants"))
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


def test_what_a_rotated_refresh_token_adds_to_the_log(own_server: Any) -> None:
    """The memory of its fingerprint and no more. A server of its own: nobody else writes to it."""
    server = own_server("postgres")
    kept, rotated = (logged_by_a_renewal(server, rotated=rotated) for rotated in (False, True))
    assert rotated - kept < 230


def logged_by_a_renewal(server: Any, *, rotated: bool) -> float:
    """Bytes, claim and commit, of the third in a row; two ciphertexts of 1,500 bytes."""
    database = Database(server, f"log{rotated}", Filling(400, (1500, 1500), 400))
    engine = open_engine(database.url)
    for _ in range(3):
        begun = database.log_position()
        for _ in range(400 // GROUP):
            _renew_group(engine, rotated=rotated)
    engine.dispose()
    return (database.log_position() - begun) / 400


def _renew_group(engine: Engine, *, rotated: bool) -> None:
    """They fall due again at once, behind all the others."""
    asked = {"each": GROUP, "lease": 60.0, "since": {}}
    told = {"rotated": rotated, "sealed": (1500, 1500), "due_in": timedelta(seconds=-1)}
    new = [brought(one, **told) for one in claims_of(engine).claim_due(PROVIDER, [TENANT], **asked)]
    assert list(settling_of(engine).settle(new).fates.values()) == [Fate.APPLIED] * GROUP
