"""Before a grant ends that no renewal can save, its owner hears of it: once, and in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from tests.clock import FakeClock
from tests.planted import plant, plant_connection, row_of
from tests.simulation.provider import NO_LIMITS, FakeCatalogue, FakeEntry, Ledger
from worker.domain.exchange import Rotation
from worker.renewal.warning import warn
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.connections import ConnectionRepository
from worker.store.engine import reading
from worker.store.handout import HandoutRepository
from worker.store.last_days import LastDays
from worker.store.tables import GrantRow, OutboxRow

DAY = timedelta(days=1)
YEAR = replace(NO_LIMITS, refresh=365 * DAY, refresh_fixed=True)
ROLLING = replace(NO_LIMITS, refresh=365 * DAY)


class Watch:
    """A store with one connection, and the look that is taken at it every few hours."""

    def __init__(self, engine, vault):
        self.engine, self.vault, self.clock = engine, vault, FakeClock()
        self.entry = FakeEntry("google-oauth2", Ledger(Rotation.F))
        self.entry.lifetimes = YEAR
        self.audit = AuditLog("test")
        plant_connection(engine)

    def plant(self, **columns):
        return plant(self.engine, self.vault, now=self.clock.now(), rt=None, **columns)

    def logged_in(self, days, **columns):
        return self.plant(logged_in_at=self.clock.now() - days * DAY, **columns)

    async def look(self):
        return await warn(
            last_days=LastDays(self.engine, self.audit, outbox.add, actor="worker:n1"),
            connections=ConnectionRepository(self.engine, self.vault),
            catalogue=FakeCatalogue({"google-oauth2": self.entry}),
            clock=self.clock,
            offload=in_place,
        )

    def notices(self):
        with reading(self.engine) as db:
            asked = select(OutboxRow.kind, OutboxRow.grant_id).order_by(OutboxRow.id)
            return [tuple(row) for row in db.execute(asked)]


async def in_place(call, /, *args, **kwargs):
    return call(*args, **kwargs)


@pytest.fixture
def watch(engine, vault):
    return Watch(engine, vault)


async def test_a_week_before_the_end_it_is_told_once(watch):
    grant = watch.logged_in(350)
    assert await watch.look() == 0
    watch.clock.advance(9 * 86_400)
    assert await watch.look() == 1
    assert await watch.look() == 0
    assert watch.notices() == [("grant_ends_soon", grant)]


async def test_the_next_login_begins_a_new_episode(watch):
    grant = watch.logged_in(360)
    assert await watch.look() == 1
    row = GrantRow.__table__
    with watch.engine.begin() as db:
        now = watch.clock.now()
        values = {"logged_in_at": now + DAY, "refresh_expires_at": None}
        db.execute(row.update().where(row.c.id == grant).values(values))
    watch.clock.advance(362 * 86_400)
    assert await watch.look() == 1
    assert len(watch.notices()) == 2


async def test_an_end_that_renewing_moves_is_nobodys_trouble(watch):
    watch.entry.lifetimes = ROLLING
    watch.logged_in(360)
    watch.logged_in(10, refresh_expires_at=watch.clock.now() + DAY)
    assert await watch.look() == 0


async def test_what_the_provider_told_of_a_grant_goes_before_what_is_declared(watch):
    watch.logged_in(360, refresh_expires_at=watch.clock.now() + 90 * DAY)
    soon = watch.logged_in(60, refresh_expires_at=watch.clock.now() + 2 * DAY)
    assert await watch.look() == 1
    assert watch.notices() == [("grant_ends_soon", soon)]


@pytest.mark.parametrize(
    ("life", "told"), [(timedelta(hours=1), 0), (60 * DAY, 1)], ids=["an hour", "sixty days"]
)
async def test_what_cannot_be_renewed_is_told_of_where_it_lives_for_days(watch, life, told):
    """A token of an hour without a refresh token is known to end; LinkedIn's sixty days are not."""
    watch.plant(renewable=False, life=life, age=life - life / 20, due_at=None)
    assert await watch.look() == told


async def test_an_access_token_that_is_exchanged_and_near_its_end_was_not_extended(watch):
    """Meta promises no extension while the person is away: he hears of it while it still helps."""
    watch.entry.lifetimes, watch.entry.spends = NO_LIMITS, "at"
    near = watch.plant(life=60 * DAY, age=54 * DAY)
    watch.plant(life=60 * DAY, age=10 * DAY)
    watch.plant(life=timedelta(hours=1))
    assert await watch.look() == 1
    assert watch.notices() == [("grant_ends_soon", near)]
    assert row_of(watch.engine, near).refresh_expires_at is None  # an exchange may yet move it


async def test_who_is_gone_is_not_warned_of(watch):
    for state in ("needs_reauth", "tombstoned", "erased"):
        watch.logged_in(360, state=state)
    watch.logged_in(400)  # over: a refusal says so
    assert await watch.look() == 0


async def test_the_end_is_shown_with_the_grant(watch):
    grant = watch.logged_in(360)
    grants = HandoutRepository(watch.engine, watch.audit)
    assert grants.by_id(grant).warned_at is None
    await watch.look()
    held = grants.by_id(grant)
    assert held.warned_at == watch.clock.now()
    assert held.refresh_expires_at == row_of(watch.engine, grant).logged_in_at + 365 * DAY
    assert [moment.verb for moment in grants.timeline(grant, 5)] == ["warned"]


async def test_many_are_told_of_in_batches(watch, monkeypatch):
    monkeypatch.setattr("worker.renewal.warning._BATCH", 3)
    for _ in range(8):
        watch.logged_in(360)
    assert await watch.look() == 8
