"""Looking for due work: right from the very beginning, and cheap beside an old snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, insert, text, update

from tests.clock import FakeClock
from tests.planted import plant
from worker.store import migrate
from worker.store.due_index import DueIndex
from worker.store.engine import open_engine, writing
from worker.store.tables import GrantRow

NOW = datetime.now(UTC) - timedelta(seconds=60)
PASSED = 1500


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    engine = open_engine(postgres_url)
    migrate.upgrade(engine)
    yield engine
    engine.dispose()


class SlowLooks(FakeClock):
    """Each look takes ten seconds, so the next whole one is four minutes away."""

    def monotonic(self) -> float:
        self.advance(10.0)
        return super().monotonic()


def set_due(engine: Engine, grant: Any, due_at: datetime | None) -> None:
    with writing(engine) as db:
        db.execute(update(GrantRow).where(GrantRow.id == grant).values(due_at=due_at))


def pairs(index: DueIndex) -> list[tuple[str, str, datetime]]:
    return [(work.provider, work.tenant, work.since) for work in index.work()]


@pytest.mark.parametrize("clock", [FakeClock, SlowLooks])
def test_every_pair_with_due_work_is_told_with_its_longest_overdue(
    engine: Engine, vault: Any, clock: type[FakeClock]
) -> None:
    later = NOW + timedelta(seconds=5)
    for tenant, provider, due_at in (
        ("b", "waad", later),
        ("b", "waad", NOW),
        ("a", "waad", NOW),
        ("a", "github", NOW),
        ("c", "github", NOW + timedelta(hours=1)),
        ("d", "github", None),
    ):
        plant(engine, vault, now=NOW, rt=uuid4().hex, tenant=tenant, provider=provider,
              identity=uuid4().hex, due_at=due_at)  # fmt: skip
    index = DueIndex(engine, clock(datetime.now(UTC)))
    for _ in range(2):
        assert pairs(index) == [("github", "a", NOW), ("waad", "a", NOW), ("waad", "b", NOW)]


def test_a_look_in_between_sees_what_is_renewed_and_what_becomes_due(
    postgres_engine: Engine, vault: Any
) -> None:
    first = plant(postgres_engine, vault, now=NOW)
    other = plant(postgres_engine, vault, now=NOW, rt="r1", tenant="b", due_at=None)
    index = DueIndex(postgres_engine, SlowLooks(NOW))
    assert [work.tenant for work in index.work()] == ["acme"]
    set_due(postgres_engine, first, NOW + timedelta(hours=1))
    assert pairs(index) == []
    soon = datetime.now(UTC)
    set_due(postgres_engine, other, soon)
    assert pairs(index) == [("google-oauth2", "b", soon)]


def test_what_becomes_due_in_the_past_is_found_by_the_next_whole_look(
    postgres_engine: Engine, vault: Any
) -> None:
    grant = plant(postgres_engine, vault, now=NOW, due_at=None)
    clock = SlowLooks(NOW)
    index = DueIndex(postgres_engine, clock)
    assert pairs(index) == []
    set_due(postgres_engine, grant, NOW)
    assert pairs(index) == []
    clock.advance(250.0)
    assert pairs(index) == [("google-oauth2", "acme", NOW)]


def test_beside_an_old_snapshot_only_a_whole_look_steps_over_what_was_renewed(
    postgres_engine: Engine, vault: Any
) -> None:
    """In buffers touched, which do not depend on who else uses the machine."""
    pattern = plant(postgres_engine, vault, now=NOW)
    with writing(postgres_engine) as db:
        row = dict(db.execute(GrantRow.__table__.select()).one()._mapping)
        db.execute(insert(GrantRow), [_copy(row, n) for n in range(PASSED)])
    old = open_engine(postgres_engine.url.render_as_string(hide_password=False))
    with old.connect().execution_options(isolation_level="REPEATABLE READ") as held:
        held.execute(text("SELECT count(*) FROM tenants"))
        with writing(postgres_engine) as db:
            away = update(GrantRow).where(GrantRow.id != pattern)
            db.execute(away.values(due_at=NOW + timedelta(hours=1)))
        index = DueIndex(postgres_engine, SlowLooks(NOW))
        whole, between = (touched(postgres_engine, index) for _ in range(2))
        assert whole > PASSED / 10  # ten of them to a page
        assert between < PASSED / 50
    old.dispose()


def _copy(row: dict[str, Any], number: int) -> dict[str, Any]:
    new = {"id": uuid4(), "identity_user_id": str(number), "rt_fp": uuid4().bytes}
    return row | new | {"due_at": NOW - timedelta(seconds=number + 1)}


def touched(engine: Engine, index: DueIndex) -> int:
    sent: list[Any] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        sent.append((statement, parameters))

    index.work()
    event.remove(engine, "before_cursor_execute", _note)
    ((statement, parameters),) = [one for one in sent if "pairs" in one[0]]
    with engine.connect() as db:
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
        (plan,) = db.exec_driver_sql(explain, parameters).scalar_one()
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
