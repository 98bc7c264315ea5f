"""Claimers beside each other, and beside whoever else rewrites the rows: never one row for two.

On PostgreSQL a claim finds the rows it has locked by their place, and a row written anew moves.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from threading import Barrier, Event
from typing import Any

from sqlalchemy import func, select, update

from tests.clock import FakeClock
from tests.planted import plant
from worker.domain.grant import Claim, GrantId
from worker.store.claim_rows import FREE
from worker.store.claims import ClaimsRepository
from worker.store.engine import open_engine, reading, writing
from worker.store.tables import GrantRow

GRANTS, CLAIMERS, EACH, ROUNDS = 240, 6, 60, 4


def _rewriting(engine: Any, grants: list[GrantId], done: Event) -> int:
    """What pulls do to grants all the time: their rows are written anew, and move."""
    dice, count = Random(7), 0
    while not done.is_set():
        one = dice.choice(grants)
        with writing(engine) as db:
            db.execute(update(GrantRow).where(GrantRow.id == one).values(scope=f"s{count}"))
        count += 1
    return count


def _claiming(engine: Any, process: str, start: Barrier) -> list[Claim]:
    """Until there is nothing left; a row that moved in the moment of a claim is for the next."""
    clock = FakeClock(start=datetime.now(UTC))
    claims = ClaimsRepository(engine, node="n1", process=process, clock=clock)
    free = select(func.count()).where(GrantRow.attempt.is_(None))
    taken: list[Claim] = []
    start.wait()
    while True:
        taken += claims.claim_due("google-oauth2", ["acme"], each=EACH, lease=60.0, since={})
        with reading(engine) as db:
            if db.execute(free).scalar_one() == 0:
                return taken


def test_each_due_grant_is_claimed_once_whoever_else_claims_or_writes(store_url, vault):
    engine, done = open_engine(store_url, pool_size=CLAIMERS + 1), Event()
    now = datetime.now(UTC) - timedelta(seconds=5)
    grants = [plant(engine, vault, now=now, rt=f"r{n}") for n in range(GRANTS)]
    with ThreadPoolExecutor(CLAIMERS + 1) as threads:
        writer = threads.submit(_rewriting, engine, grants, done)
        try:
            for fence in range(1, ROUNDS + 1):
                start = Barrier(CLAIMERS)
                each = [threads.submit(_claiming, engine, f"p{n}", start) for n in range(CLAIMERS)]
                taken = [one for claimer in each for one in claimer.result()]
                assert sorted(one.grant for one in taken) == sorted(grants)
                assert {one.fence for one in taken} == {fence}
                with writing(engine) as db:
                    db.execute(update(GrantRow).values(FREE))
        finally:
            done.set()
    assert writer.result() > 0
    engine.dispose()
