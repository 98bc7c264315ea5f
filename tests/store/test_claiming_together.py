"""Claimers beside each other, and beside whoever else rewrites the rows: never one row for two.

On PostgreSQL a claim finds the rows it has locked by their place, and a row written anew moves.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from threading import Barrier, Event
from typing import Any

from sqlalchemy import func, select, update

from tests.clock import FakeClock
from tests.planted import plant, row_of
from worker.domain.grant import Claim, GrantId
from worker.store.claims import ClaimsRepository
from worker.store.engine import reading, writing
from worker.store.tables import GrantRow

GRANTS, CLAIMERS, EACH = 240, 4, 3
PATIENCE = timedelta(seconds=60)


def _rewriting(engine: Any, grants: list[GrantId], done: Event) -> int:
    """What pulls do to grants all the time: their rows are written anew, and move."""
    dice, count = Random(7), 0
    while not done.is_set():
        one = dice.choice(grants)
        with writing(engine) as db:
            db.execute(update(GrantRow).where(GrantRow.id == one).values(scope=f"s{count}"))
        count += 1
    return count


def _claiming(engine: Any, process: str, start: Barrier, left: Callable[[], bool]) -> list[Claim]:
    clock = FakeClock(start=datetime.now(UTC))
    claims = ClaimsRepository(engine, node="n1", process=process, clock=clock)
    start.wait()
    taken: list[Claim] = []
    while left():
        taken += claims.claim_due("google-oauth2", ["acme"], each=EACH, lease=60.0, since={})
    return taken


def test_each_due_grant_is_claimed_once_whoever_else_claims_or_writes(engine, vault):
    now = datetime.now(UTC) - timedelta(seconds=5)
    grants = [plant(engine, vault, now=now, rt=f"r{n}") for n in range(GRANTS)]
    until, done, start = datetime.now(UTC) + PATIENCE, Event(), Barrier(CLAIMERS)

    def left() -> bool:
        """Whether any is free; a row that moved in the moment of a claim is left for the next."""
        free = select(func.count()).where(GrantRow.attempt.is_(None))
        with reading(engine) as db:
            return datetime.now(UTC) < until and db.execute(free).scalar_one() > 0

    with ThreadPoolExecutor(CLAIMERS + 1) as threads:
        writer = threads.submit(_rewriting, engine, grants, done)
        each = [threads.submit(_claiming, engine, f"p{n}", start, left) for n in range(CLAIMERS)]
        taken = [one for claimer in each for one in claimer.result()]
        done.set()
    assert writer.result() > 0
    assert sorted(one.grant for one in taken) == sorted(grants)
    assert {one.fence for one in taken} == {1}
    assert all(row_of(engine, one.grant).attempt == one.attempt for one in taken)
