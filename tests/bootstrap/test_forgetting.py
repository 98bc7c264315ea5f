"""The hourly purge goes on until nothing more is old enough, however much came in an hour."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, func, insert, select

from tests.clock import FakeClock
from worker.bootstrap.forgetting import KEEP_DEAD, LONGEST, Forgetting
from worker.store.engine import reading, writing
from worker.store.pulls import PullRepository, user_subject
from worker.store.tables import (
    Base,
    CandidateRow,
    DeadMessageRow,
    InboxRow,
    OutboxRow,
    SeenRefreshTokenRow,
)

BATCH, ROWS = 3, 8  # two full batches and one that is not
KINDS = ("candidates", "fingerprints", "given_up", "events", "notices", "dead_messages")


async def offload(call: Any, /, *args: Any, **kwargs: Any) -> Any:
    return call(*args, **kwargs)


def forgetting(engine: Engine, clock: FakeClock, *, stopping: bool = False) -> dict[str, int]:
    made = Forgetting(
        engine=engine, clock=clock, offload=offload, stopping=lambda: stopping, batch=BATCH
    )
    return {**asyncio.run(made.round())}


def fill(engine: Engine, old: datetime) -> None:
    """As many old rows of each kind, all fingerprints in one slice."""
    event = {"tenant": "acme", "source": "logs", "event": {}, "progress": {}, "attempts": 0}
    notice = {"tenant": "acme", "kind": "k", "notice": {}, "attempts": 1, "created_at": old}
    sealed = {"generation": 1, "family": 0, "refresh_token": b"x", "why": "parent"}
    times = {"issued_at": old, "created_at": old, "spent_at": old}
    grant = uuid4()
    with writing(engine) as db:
        for n in range(ROWS):
            for state in ("done", "failed"):
                row = {**event, "delivery_id": f"{state}{n}", "state": state, "received_at": old}
                db.execute(insert(InboxRow), row)
            db.execute(insert(OutboxRow), {**notice, "episode": str(n)})
            db.execute(
                insert(CandidateRow), {**sealed, **times, "grant_id": uuid4(), "rt_fp": b"%d" % n}
            )
            seen = {"grant_id": grant, "fp": b"%d" % n, "generation": n, "seen_at": old}
            db.execute(insert(SeenRefreshTokenRow), seen)
            dead = {"queue": "q", "why": "w", "body": b"x", "received_at": old}
            db.execute(insert(DeadMessageRow), dead)


def hour_of(engine: Engine, clock: FakeClock) -> None:
    """To the hour whose slice of the grants holds the fingerprints."""
    with reading(engine) as db:
        grant = db.execute(select(SeenRefreshTokenRow.grant_id)).scalars().first()
    assert grant is not None
    wanted = grant.int // ((1 << 128) // 24)
    while int(clock.now().timestamp() // 3600) % 24 != wanted:
        clock.advance(3600)


def left(engine: Engine) -> dict[str, int]:
    with reading(engine) as db:
        return {
            table.name: count
            for table in Base.metadata.sorted_tables
            if (count := db.execute(select(func.count()).select_from(table)).scalar_one())
        }


def test_more_than_a_batch_of_everything_is_forgotten_in_one_round(
    engine: Engine, clock: FakeClock
) -> None:
    fill(engine, clock.now() - KEEP_DEAD - timedelta(days=2))
    hour_of(engine, clock)
    told = forgetting(engine, clock)
    del told["pulls"]  # they have an hour of their own
    assert told == dict.fromkeys(KINDS, ROWS)
    assert left(engine) == {}


def test_what_is_young_stays(sqlite_engine: Engine, clock: FakeClock) -> None:
    fill(sqlite_engine, clock.now())
    before = left(sqlite_engine)
    assert forgetting(sqlite_engine, clock) == dict.fromkeys((*KINDS, "pulls"), 0)
    assert left(sqlite_engine) == before


def test_a_worker_that_stops_begins_no_batch(sqlite_engine: Engine, clock: FakeClock) -> None:
    fill(sqlite_engine, clock.now() - KEEP_DEAD - timedelta(days=2))
    assert forgetting(sqlite_engine, clock, stopping=True) == dict.fromkeys((*KINDS, "pulls"), 0)


def test_no_kind_takes_the_hour_for_itself(
    sqlite_engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch takes longer than allowed here, so each kind gets one."""
    fill(sqlite_engine, clock.now() - KEEP_DEAD - timedelta(days=2))
    hour_of(sqlite_engine, clock)

    async def slow(call: Any, /, *args: Any, **kwargs: Any) -> Any:
        clock.advance(LONGEST)
        return call(*args, **kwargs)

    monkeypatch.setitem(globals(), "offload", slow)
    told = forgetting(sqlite_engine, clock)
    del told["pulls"]
    assert told == dict.fromkeys(KINDS, BATCH)


def test_users_who_come_and_go_leave_no_more_than_ninety_days_of_pulls(
    sqlite_engine: Engine, clock: FakeClock
) -> None:
    pulls, most = PullRepository(sqlite_engine), 0
    for hour in range(24 * 300):
        if hour % 24 == 5:
            for n in range(BATCH + 1):
                pulls.begin("acme", user_subject(f"auth0|{hour}.{n}"), now=clock.now())
        if int(clock.now().timestamp() // 3600) % 24 in (0, 7):  # one hour of the day, and another
            forgetting(sqlite_engine, clock)
        most = max(most, left(sqlite_engine).get("pulls", 0)) if hour % 24 == 0 else most
        clock.advance(3600)
    assert most <= (BATCH + 1) * 92
