"""The store stays bounded, and forgets nothing that could still be news."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, insert, select, update

from tests.clock import FakeClock, as_told
from tests.grants import GrantTable
from worker.store.engine import reading, writing
from worker.store.pulls import PullRepository, still_latest
from worker.store.purging import SLICES, Purge
from worker.store.seen import beginning, holds
from worker.store.tables import (
    CandidateRow,
    GrantRow,
    InboxRow,
    PullRow,
    SeenRefreshTokenRow,
)
from worker.vault import AesVault

OLD, YOUNG = timedelta(days=30), timedelta(days=1)


@pytest.fixture
def grants(engine: Engine, vault: AesVault, clock: FakeClock) -> GrantTable:
    return GrantTable(engine, vault, clock)


def seen(engine: Engine, clock: FakeClock, grant: UUID, *fps: bytes, ago: timedelta) -> None:
    rows = [
        {"grant_id": grant, "fp": fp, "generation": 0, "seen_at": clock.now() - ago} for fp in fps
    ]
    with writing(engine) as connection:
        connection.execute(insert(SeenRefreshTokenRow), rows)


def kept(engine: Engine, grant: UUID) -> set[bytes]:
    with reading(engine) as connection:
        mine = select(SeenRefreshTokenRow.fp).where(SeenRefreshTokenRow.grant_id == grant)
        return set(connection.scalars(mine))


def purge_all(engine: Engine, clock: FakeClock) -> int:
    before = clock.now() - timedelta(days=14)
    return sum(Purge(engine).fingerprints(before=before, part=hour) for hour in range(SLICES))


def candidate(engine: Engine, clock: FakeClock, grant: UUID, fp: bytes, **more: object) -> None:
    row = {
        "grant_id": grant,
        "generation": 9,
        "family": 0,
        "rt_fp": fp,
        "refresh_token": b"sealed",
        "issued_at": clock.now(),
        "why": "login",
        "created_at": clock.now(),
        **more,
    }
    with writing(engine) as connection:
        connection.execute(insert(CandidateRow), [row])


LOGIN, SPENT, CURRENT, BESIDE, TODAY = (bytes([n]) * 32 for n in range(5))


@pytest.mark.parametrize("written", [bytes, beginning], ids=["by an older version", "by this one"])
def test_what_we_rotated_away_long_ago_is_forgotten_and_nothing_else(
    engine: Engine, clock: FakeClock, grants: GrantTable, written: Callable[[bytes], bytes]
) -> None:
    """Auth0 keeps the login's refresh token for ever: read again, it must never look new (M2)."""
    grant = grants.add(rt_fp=CURRENT, upstream_rt_fp=LOGIN)
    candidate(engine, clock, grant, BESIDE)
    seen(engine, clock, grant, *map(written, (LOGIN, SPENT, CURRENT, BESIDE)), ago=OLD)
    seen(engine, clock, grant, written(TODAY), ago=YOUNG)
    assert purge_all(engine, clock) == 1
    assert kept(engine, grant) == set(map(written, (LOGIN, CURRENT, BESIDE, TODAY)))
    with reading(engine) as connection:
        held = {fp: holds(connection, grant, fp) for fp in (LOGIN, SPENT)}
    assert held == {LOGIN: True, SPENT: False}


def test_a_round_of_purges_reaches_every_grant(sqlite_engine: Engine, clock: FakeClock) -> None:
    edges = [UUID(int=0), UUID(int=(1 << 128) - 1), *(uuid4() for _ in range(200))]
    for grant in edges:
        seen(sqlite_engine, clock, grant, b"spent", ago=OLD)
    assert purge_all(sqlite_engine, clock) == len(edges)


def test_what_another_grant_holds_is_forgotten_of_this_one(
    engine: Engine, clock: FakeClock, grants: GrantTable
) -> None:
    one, other = grants.add(rt_fp=b"a", identity_user_id="1"), grants.add(identity_user_id="2")
    with writing(engine) as connection:
        connection.execute(update(GrantRow).where(GrantRow.id == other).values(rt_fp=b"b"))
    seen(engine, clock, one, b"b", ago=OLD)
    assert purge_all(engine, clock) == 1


def test_candidates_proven_spent_go_and_those_that_may_be_tried_stay(
    engine: Engine, clock: FakeClock, grants: GrantTable
) -> None:
    grant, now = grants.add(), clock.now()
    candidate(engine, clock, grant, b"1", spent_at=now - OLD)
    candidate(engine, clock, grant, b"2", spent_at=now - YOUNG)
    candidate(engine, clock, grant, b"3", spent_at=None, created_at=now - OLD)
    assert Purge(engine).candidates(before=now - timedelta(days=14)) == 1
    with reading(engine) as connection:
        assert set(connection.scalars(select(CandidateRow.rt_fp))) == {b"2", b"3"}


def test_events_given_up_go_and_those_that_wait_stay(engine: Engine, clock: FakeClock) -> None:
    now = clock.now()
    for state, ago in (("failed", OLD), ("unreadable", OLD), ("new", OLD), ("failed", YOUNG)):
        event(engine, f"{state} {ago}", state=state, received_at=now - ago)
    assert Purge(engine).given_up(before=now - timedelta(days=14)) == 2
    with reading(engine) as connection:
        assert set(connection.scalars(select(InboxRow.state))) == {"new", "failed"}


def event(engine: Engine, name: str, **more: object) -> None:
    row = {"tenant": "acme", "source": "logs", "delivery_id": name, "event": {}, "progress": {}}
    with writing(engine) as connection:
        connection.execute(insert(InboxRow), [{**row, "attempts": 0, **more}])


def purge_pulls(engine: Engine, clock: FakeClock) -> int:
    now = clock.now()
    return sum(Purge(engine).pulls(before=now - OLD, now=now, part=hour) for hour in range(SLICES))


def pulled(engine: Engine, clock: FakeClock, name: str, *, ago: timedelta | None) -> None:
    """`ago` None: a row of before, that does not tell."""
    at = None if ago is None else clock.now() - ago
    row = {"tenant": "acme", "fence": 1, "missing": 0, "pulled_at": at, "reserved_at": at}
    with writing(engine) as connection:
        connection.execute(insert(PullRow), [{**row, "subject": name}])


def subjects(engine: Engine) -> set[str]:
    with reading(engine) as connection:
        return set(connection.scalars(select(PullRow.subject)))


def test_pulls_of_users_who_are_gone_are_forgotten_and_no_others(
    engine: Engine, clock: FakeClock, grants: GrantTable
) -> None:
    longer = OLD + YOUNG
    grants.add(tenant="acme", user_id="auth0|kept", identity_user_id="1")
    grants.add(tenant="acme", user_id="auth0|erased", identity_user_id="2", state="erased")
    for name in ("user:auth0|kept", "user:auth0|erased", "user:auth0|gone", "connection:github"):
        pulled(engine, clock, name, ago=longer)
    pulled(engine, clock, "user:auth0|of today", ago=YOUNG)
    pulled(engine, clock, "user:auth0|untold", ago=None)
    assert purge_pulls(engine, clock) == 2
    stay = {"user:auth0|kept", "connection:github", "user:auth0|of today", "user:auth0|untold"}
    assert subjects(engine) == stay
    clock.advance(longer.total_seconds())
    assert purge_pulls(engine, clock) == 2
    assert subjects(engine) == {"user:auth0|kept", "connection:github"}


def test_a_pull_that_has_begun_is_not_forgotten(engine: Engine, clock: FakeClock) -> None:
    """Its user may be new: what it brings would be taken for out of date."""
    pulled(engine, clock, "user:auth0|back", ago=OLD + YOUNG)
    begun = PullRepository(engine, time=as_told).begin("acme", "user:auth0|back", now=clock.now())
    assert purge_pulls(engine, clock) == 0
    with writing(engine) as connection:
        assert still_latest(connection, begun)


def test_a_forgotten_pull_fence_never_goes_backwards(engine: Engine, clock: FakeClock) -> None:
    """M1: whoever read before merges no more, and whoever reads next has a higher number."""
    pulls = PullRepository(engine, time=as_told)
    asleep = pulls.begin("acme", "user:auth0|1", now=clock.now())
    clock.advance((OLD + YOUNG).total_seconds())
    assert purge_pulls(engine, clock) == 1
    with writing(engine) as connection:
        assert not still_latest(connection, asleep)
    later = pulls.begin("acme", "user:auth0|1", now=clock.now())
    assert later.fence > asleep.fence
    with writing(engine) as connection:
        assert not still_latest(connection, asleep)
        assert still_latest(connection, later)
