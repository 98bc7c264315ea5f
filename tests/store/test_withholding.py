"""Grants of a user who vanished or is blocked: kept, and handed to nobody."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from tests.clock import T0, as_told
from tests.grants import GrantTable
from worker.domain.held import Withheld
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.engine import reading
from worker.store.pulls import PullRepository
from worker.store.tables import AuditRow, OutboxRow
from worker.store.withholding import WithholdingRepository

ROSA = "google-oauth2|104"


@pytest.fixture
def store(engine: Any) -> WithholdingRepository:
    return WithholdingRepository(engine, AuditLog("test"), outbox.add)


@pytest.fixture
def grants(engine: Any, vault: Any, clock: Any) -> GrantTable:
    return GrantTable(engine, vault, clock)


def withhold(store: WithholdingRepository, user_id: str = ROSA) -> list[Any]:
    return list(store.withhold("acme", user_id, Withheld.USER_MISSING, actor="test", now=T0))


def test_nothing_but_the_handing_out_changes(store, grants, engine):
    mine, other = grants.add(), grants.add(user_id="x|2", identity_user_id="2")
    before = grants.row(mine)
    assert withhold(store) == [mine]
    after = grants.row(mine)
    assert (after.withheld, after.withheld_at) == ("user_missing", T0)
    kept = ("state", "due_at", "fence", "access_token", "refresh_token", "access_key")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert grants.row(other).withheld is None
    with reading(engine) as connection:
        asked = select(AuditRow.verb, AuditRow.grant_id, AuditRow.detail)
        assert connection.execute(asked).all() == [("withheld", mine, {"why": "user_missing"})]


def test_it_is_told_once_however_often_it_is_said(store, grants, engine):
    grants.add()
    withhold(store)
    assert withhold(store) == []
    with reading(engine) as connection:
        assert connection.execute(select(OutboxRow.kind)).scalars().all() == ["user_missing"]


def test_what_is_on_its_way_out_goes_on(store, grants):
    grants.add(state="tombstoned", tombstoned_at=T0)
    assert withhold(store) == []


def test_users_who_wait_are_listed(store, grants):
    grants.add()
    grants.add(connection="github")
    grants.add(user_id="x|2", identity_user_id="2", withheld="user_blocked", withheld_at=T0)
    withhold(store)
    (one,) = store.users("acme", Withheld.USER_MISSING)
    assert (one.user_id, one.grants, one.since) == (ROSA, 2, T0)
    (other,) = store.users("acme", Withheld.USER_BLOCKED)
    assert other.user_id == "x|2"


def test_who_waits_is_looked_at_after_the_quiet_time_and_then_now_and_then(
    store: WithholdingRepository, grants: GrantTable, engine: Any
) -> None:
    pulls = PullRepository(engine, time=as_told)
    grants.add(user_id="x|1", identity_user_id="1")
    grants.add(user_id="x|2", identity_user_id="2")
    grants.add(user_id="x|3", identity_user_id="3")
    for number, user_id in enumerate(("x|1", "x|2")):
        at = T0 + timedelta(minutes=number)
        store.withhold("acme", user_id, Withheld.USER_MISSING, actor="test", now=at)
        pulls.missed(pulls.begin("acme", f"user:{user_id}", now=at))
    store.withhold("acme", "x|3", Withheld.USER_BLOCKED, actor="test", now=T0)

    def unseen(minutes: int, again: int = 60) -> list[str]:
        now = T0 + timedelta(minutes=minutes)
        since, looked = now - timedelta(minutes=60), now - timedelta(minutes=again)
        why = Withheld.USER_MISSING
        return list(store.unseen("acme", why, since=since, looked=looked, limit=50))

    assert unseen(59) == []
    assert unseen(60) == []  # the second 404 was as long ago: not before, but after
    assert unseen(61) == ["x|1"]
    assert unseen(62) == ["x|1", "x|2"]
    pulls.missed(pulls.begin("acme", "user:x|1", now=T0 + timedelta(minutes=62)))
    assert unseen(63) == ["x|2"]
    assert unseen(123) == ["x|1", "x|2"]  # and again an hour later


def test_since_when_all_of_a_users_grants_are_withheld(
    store: WithholdingRepository, grants: GrantTable
) -> None:
    grants.add()
    withhold(store)
    why = Withheld.USER_MISSING
    assert store.since("acme", ROSA, why) == T0
    grants.add(connection="other")
    later = T0 + timedelta(minutes=5)
    store.withhold("acme", ROSA, why, actor="test", now=later)
    assert store.since("acme", ROSA, why) == later  # the last of them counts
    assert store.since("acme", "nobody|1", why) is None
