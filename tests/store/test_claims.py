"""Claims: due grants are leased once, by one attempt, and an earlier attempt is never forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from tests.clock import FakeClock
from tests.planted import plant, row_of
from worker.domain.errors import TransientError
from worker.domain.grant import GrantState
from worker.domain.rotation import HOLD
from worker.store.claim_rows import FREE
from worker.store.claims import ClaimsRepository
from worker.store.engine import writing
from worker.store.tables import GrantRow

NOW = datetime.now(UTC) - timedelta(seconds=5)  # PostgreSQL leases by its own clock


@pytest.fixture
def claims(engine):
    return make(engine)


def make(engine, process="p1", node="n1"):
    clock = FakeClock(start=datetime.now(UTC))
    return ClaimsRepository(engine, node=node, process=process, clock=clock)


def claim(claims, each=10, tenants=("acme",), lease=20.0, since=None):
    return claims.claim_due("google-oauth2", tenants, each=each, lease=lease, since=since or {})


def age_claims(engine, by):
    """As if every claim had been made earlier."""
    by = timedelta(seconds=by)
    with writing(engine) as db:
        for row in db.execute(GrantRow.__table__.select()).all():
            db.execute(
                update(GrantRow)
                .where(GrantRow.id == row.id, GrantRow.attempt.is_not(None))
                .values(claimed_at=row.claimed_at - by, lease_until=row.lease_until - by)
            )


def test_a_due_grant_is_claimed_by_one_attempt_only(engine, vault, claims):
    grant = plant(engine, vault, now=NOW)
    (mine,) = claim(claims)
    assert mine.grant == grant
    assert mine.fence == 1
    assert mine.next_generation == 1
    assert claim(make(engine, "p2")) == []
    row = row_of(engine, grant)
    assert (row.attempt, row.claim_process, row.claim_fp) == (mine.attempt, "p1", row.rt_fp)
    lease = (mine.lease_until - mine.claimed_at).total_seconds()
    assert lease == pytest.approx(20.0)


@pytest.mark.parametrize(
    "columns",
    [
        {"due_at": NOW + timedelta(hours=1)},
        {"due_at": None},
        {"state": GrantState.NEEDS_REAUTH.value},
        {"state": GrantState.TOMBSTONED.value},
        {"state": GrantState.QUARANTINED.value},
        {"provider": "github-app"},
        {"tenant": "other"},
    ],
)
def test_what_is_not_due_or_not_open_is_left_alone(engine, vault, claims, columns):
    plant(engine, vault, now=NOW, **columns)
    assert claim(claims) == []


def test_the_longest_overdue_go_first_and_no_tenant_is_crowded_out(engine, vault, claims):
    for minutes in range(5):
        plant(engine, vault, now=NOW, rt=f"a{minutes}", due_at=NOW - timedelta(minutes=minutes))
    theirs = plant(engine, vault, now=NOW, rt="b", tenant="small")
    got = claim(claims, each=2, tenants=("acme", "small"))
    assert len(got) == 3
    assert theirs in {one.grant for one in got}
    overdue = [one.due_at for one in got if one.key.tenant == "acme"]
    assert max(overdue) <= NOW - timedelta(minutes=3)


def test_nothing_below_the_watermark_is_looked_for(engine, vault, claims):
    plant(engine, vault, now=NOW, rt="old", due_at=NOW - timedelta(minutes=9))
    fresh = plant(engine, vault, now=NOW, rt="new")
    assert [c.grant for c in claim(claims, since={"acme": NOW - timedelta(minutes=1)})] == [fresh]


def test_due_work_is_told_by_provider_and_tenant(engine, vault, claims):
    plant(engine, vault, now=NOW, rt="1")
    plant(engine, vault, now=NOW, rt="2", due_at=NOW - timedelta(hours=1))
    plant(engine, vault, now=NOW, rt="3", tenant="b")
    plant(engine, vault, now=NOW, rt="4", provider="waad", due_at=NOW + timedelta(hours=1))
    assert [(due.provider, due.tenant, due.since) for due in claims.due()] == [
        ("google-oauth2", "acme", NOW - timedelta(hours=1)),
        ("google-oauth2", "b", NOW),
    ]


def test_a_claim_whose_commit_nobody_confirmed_is_read_back(engine, vault, claims, monkeypatch):
    """C2: the answer to COMMIT was lost, the claim was not."""
    grant = plant(engine, vault, now=NOW)
    committed = claims._claim

    def loses_the_answer(connection, asked):
        committed(connection, asked)
        connection.commit()
        raise TransientError("store: connection lost")

    monkeypatch.setattr(claims, "_claim", loses_the_answer)
    assert [one.grant for one in claim(claims)] == [grant]


def test_a_claim_that_cannot_be_read_back_is_no_claim(engine, vault, claims, monkeypatch):
    plant(engine, vault, now=NOW)

    def away(*_):
        raise TransientError("store: away")

    monkeypatch.setattr(claims, "_claim", away)
    monkeypatch.setattr("worker.store.claims.reading", away)
    with pytest.raises(TransientError):
        claim(claims)


def test_an_attempt_whose_time_has_come_is_found_behind_a_backlog(
    engine, vault, claims, monkeypatch
):
    """A grace ends while ten thousand others wait for their turn."""
    monkeypatch.setattr("worker.store.claims._WINDOW", 5)
    put_off = plant(engine, vault, now=NOW, rt="u", due_at=NOW)
    claim(claims)
    late = {"uncertain": True, "due_at": NOW - timedelta(seconds=1)}
    with writing(engine) as db:
        db.execute(update(GrantRow).where(GrantRow.id == put_off).values(late))
    for n in range(6):
        plant(engine, vault, now=NOW, rt=f"r{n}", due_at=NOW - timedelta(minutes=1 + n))
    (found,) = claims.unfinished("google-oauth2", ["acme"], dead=())
    assert found.grant == put_off


def test_an_attempt_is_unfinished_when_its_lease_ends_or_its_process_is_dead(engine, vault, claims):
    grant = plant(engine, vault, now=NOW)
    (first,) = claim(claims)
    other = make(engine, "p2")
    assert other.unfinished("google-oauth2", ["acme"], dead=()) == []
    (dead,) = other.unfinished("google-oauth2", ["acme"], dead=("p1",))
    assert (dead.grant, dead.earlier.attempt, dead.earlier.process) == (grant, first.attempt, "p1")
    age_claims(engine, 30)
    (ended,) = make(engine, "p3", node="n2").unfinished("google-oauth2", ["acme"], dead=())
    assert ended.earlier.attempt == first.attempt
    assert not ended.earlier.uncertain


def test_a_takeover_replaces_the_very_attempt_it_saw(engine, vault, claims):
    plant(engine, vault, now=NOW)
    (first,) = claim(claims)
    other = make(engine, "p2")
    seen = other.unfinished("google-oauth2", ["acme"], dead=("p1",))
    (second,) = other.take_over(seen, lease=20.0)
    assert second.fence == first.fence + 1
    assert second.next_generation == first.next_generation + 1
    assert second.earlier.attempt == first.attempt
    assert make(engine, "p3").take_over(seen, lease=20.0) == []


def test_a_takeover_without_proof_is_remembered_with_the_token_and_not_with_the_claim(
    engine, vault, claims
):
    """The claim may be given back; whoever claims next is told of who may hold a successor."""
    grant = plant(engine, vault, now=NOW)
    (first,) = claim(claims)
    other = make(engine, "p2")
    seen = other.unfinished("google-oauth2", ["acme"], dead=("p1",))
    (second,) = other.take_over(seen, lease=20.0)
    assert second.unproven_until == first.claimed_at + HOLD
    free(engine, grant)
    (third,) = claim(claims)
    assert third.unproven_until == first.claimed_at + HOLD
    assert third.first_claimed_at == first.claimed_at
    with writing(engine) as db:
        db.execute(update(GrantRow).values(rt_fp=b"another token's"))
    free(engine, grant)
    (fourth,) = claim(claims)
    assert fourth.unproven_until is None
    assert fourth.first_claimed_at == fourth.claimed_at


def test_a_takeover_with_proof_is_remembered_for_the_grace_alone(engine, vault, claims):
    grant = plant(engine, vault, now=NOW)
    (first,) = claim(claims)
    other = make(engine, "p2")
    seen = other.unfinished("google-oauth2", ["acme"], dead=("p1",))
    (second,) = other.take_over(seen, lease=20.0, proven={grant})
    assert (second.unproven_until, second.first_claimed_at) == (None, first.claimed_at)
    free(engine, grant)
    (third,) = claim(claims)
    assert (third.unproven_until, third.first_claimed_at) == (None, first.claimed_at)


def free(engine, grant):
    with writing(engine) as db:
        db.execute(update(GrantRow).where(GrantRow.id == grant).values(FREE))


def test_a_lease_is_extended_only_by_who_still_holds_it(engine, vault, claims):
    grant = plant(engine, vault, now=NOW)
    (first,) = claim(claims)
    assert claims.extend([first], lease=120.0) == {grant}
    assert (row_of(engine, grant).lease_until - NOW).total_seconds() > 100
    other = make(engine, "p2")
    other.take_over(other.unfinished("google-oauth2", ["acme"], dead=("p1",)), lease=20.0)
    assert claims.extend([first], lease=500.0) == set()


def test_a_reread_is_noted_only_of_a_suspect(engine, vault, claims):
    calm = plant(engine, vault, now=NOW, rt="1")
    suspect = plant(engine, vault, now=NOW, rt="2", state=GrantState.SUSPECT.value)
    for grant in (calm, suspect):
        claims.reread(grant)
    assert row_of(engine, calm).pulled_at is None
    assert row_of(engine, suspect).pulled_at is not None


def test_claims_whose_fence_has_risen_are_told_as_lost_and_no_others(engine, vault, claims):
    """I14: deleted or taken over elsewhere; what is only settled, or not there at all, is not."""
    for number in range(3):
        plant(engine, vault, now=NOW, rt=f"r{number}", at=f"a{number}")
    mine = claim(claims)
    assert len(mine) == 3
    assert claims.lost(mine) == set()
    with writing(engine) as db:
        db.execute(update(GrantRow).where(GrantRow.id == mine[0].grant).values(fence=5))
        db.execute(GrantRow.__table__.delete().where(GrantRow.id == mine[1].grant))
    assert claims.lost(mine) == {(mine[0].grant, mine[0].fence)}
