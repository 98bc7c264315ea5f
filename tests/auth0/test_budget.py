"""Three kinds of callers on one budget that does not suffice: live ones first, nobody never."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from tests.auth0.fakes import in_place
from tests.clock import Sleepers
from worker.auth0 import Budget, Priority, plan_named
from worker.auth0.budget import SHARE
from worker.domain.errors import TransientError
from worker.store.tenants import TenantRepository
from worker.vault import AesVault

TIME = 300.0  # seconds
CALLERS = {Priority.LIVE: 8, Priority.FORCED: 2, Priority.BACKFILL: 8}


class Timeline(Sleepers):
    async def pass_time(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while self.monotonic() < until:
            for _ in range(20):
                await asyncio.sleep(0)
            self.wake_next()


@pytest.mark.parametrize("plan", ["free", "professional", "enterprise", "private-1x"])
async def test_behind_a_backlog_of_live_events_the_others_are_served_too(
    sqlite_engine: Engine, vault: AesVault, plan: str
) -> None:
    """Else the log is not followed for as long as it lasts, and a lost deletion not found."""
    clock, served, told = Timeline(), Counter[Priority](), plan_named(plan)
    budget = Budget(
        "acme", told, TenantRepository(sqlite_engine, vault), clock=clock, offload=in_place
    )

    async def caller(priority: Priority) -> None:
        while True:
            try:
                await budget.take("users", priority)
            except TransientError as error:
                await clock.sleep((error.retry_after or timedelta()).total_seconds())
                continue
            served[priority] += 1
            await clock.sleep(0.01)

    callers = [asyncio.ensure_future(caller(p)) for p, n in CALLERS.items() for _ in range(n)]
    await clock.pass_time(TIME)
    for one in callers:
        one.cancel()
    _, bucket = told.bucket("users")
    whole = bucket.rate * SHARE * TIME
    assert served.total() <= whole + bucket.burst  # what is theirs comes out of the same budget
    assert served[Priority.LIVE] >= 0.8 * whole  # first
    assert served[Priority.FORCED] >= 0.08 * whole
    assert served[Priority.BACKFILL] >= 0.04 * whole
