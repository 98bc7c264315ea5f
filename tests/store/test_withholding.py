"""Grants of a user who vanished or is blocked: kept, and handed to nobody."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from tests.clock import T0
from tests.grants import GrantTable
from worker.domain.held import Withheld
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.engine import reading
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
