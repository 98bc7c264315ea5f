"""How attempts end: what becomes current, what is kept beside it, and what nobody may lose."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from tests.planted import candidates_of, opened, plant, plant_connection, row_of
from tests.store.world import NOW, World
from worker.domain.attempt import Fate, LeftUncertain, Postponed
from worker.domain.errors import PermanentError
from worker.domain.grant import GrantState
from worker.domain.secret import Secret
from worker.store import seen
from worker.store.engine import reading, writing
from worker.store.tables import (
    AuditRow,
    CandidateRow,
    ConnectionRow,
    GrantRow,
    OutboxRow,
    SeenRefreshTokenRow,
)


@pytest.fixture
def world(engine, vault):
    return World(engine, vault)


def test_what_an_attempt_brought_becomes_current(world):
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    assert world.settle(world.brought(claim)) == [Fate.APPLIED]
    row = row_of(world.engine, grant)
    assert opened(world.engine, world.vault, grant) == "r1"
    assert opened(world.engine, world.vault, grant, "at") == "a1"
    assert (row.attempt, row.failures, row.rotated_before) == (None, 0, True)
    assert row.due_at == NOW + timedelta(minutes=45)
    assert world.count(SeenRefreshTokenRow) == 2


def test_a_group_is_one_transaction_and_one_audit_entry(world):
    for n in range(5):
        plant(world.engine, world.vault, now=NOW, rt=f"old{n}")
    claims = world.claim()
    fates = world.settle(*[world.brought(c, rt=f"r{n}") for n, c in enumerate(claims)])
    assert fates == [Fate.APPLIED] * 5
    assert world.count(AuditRow) == 1


def test_settling_again_changes_nothing(world):
    """C12: the fate of the commit was unknown, so the same group is written again."""
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    brought = world.brought(claim)
    world.settle(brought)
    before = row_of(world.engine, grant)
    for _ in range(100):
        assert world.settle(brought) == [Fate.REPEATED]
    assert row_of(world.engine, grant) == before
    assert candidates_of(world.engine, grant) == []


def test_a_lost_fence_makes_a_candidate_never_garbage(world):
    """C13: another attempt holds the claim now, and will find what this one brought."""
    grant = plant(world.engine, world.vault, now=NOW)
    (slow,) = world.claim()
    (quick,) = world.take_over()
    assert world.settle(world.brought(slow, rt="sibling")) == [Fate.CANDIDATE]
    assert opened(world.engine, world.vault, grant) == "r0"
    (candidate,) = candidates_of(world.engine, grant)
    assert (candidate.why, candidate.fence) == ("lost_fence", slow.fence)
    assert world.settle(world.brought(quick, rt="newest")) == [Fate.APPLIED]
    assert opened(world.engine, world.vault, grant) == "newest"


def test_a_takeover_spends_the_successor_that_came_meanwhile_and_not_its_parent_again(world):
    """I4: a slow attempt hands in late, the next one dies, and a third must not send the parent."""
    grant = plant(world.engine, world.vault, now=NOW)
    (slow,) = world.claim()
    world.take_over()
    assert world.settle(world.brought(slow, rt="successor")) == [Fate.CANDIDATE]
    seen = world.claims["p1"].unfinished("google-oauth2", ["acme"], dead=("p2",))
    assert world.claims["p1"].take_over(seen, lease=20.0) == []
    assert opened(world.engine, world.vault, grant) == "successor"
    (next_one,) = world.claim()
    assert next_one.parent_fp == world.vault.fingerprint(Secret("successor"))


def test_a_token_that_came_back_itself_proves_nothing_about_its_successor(world):
    """C22: whether or not the attempt knew that others had sent it before."""
    grant = plant(world.engine, world.vault, now=NOW, rt="r0")
    (slow,) = world.claim()
    (quick,) = world.take_over()
    assert world.settle(world.brought(slow, rt="successor")) == [Fate.CANDIDATE]
    assert world.settle(world.brought(quick, rt="r0")) == [Fate.APPLIED]
    assert opened(world.engine, world.vault, grant) == "successor"


def test_a_takeover_lets_a_whole_chain_of_successors_rise(world):
    """I24: a store that went back remembers a claim, and the journals brought what came of it and
    of the claims after it. Whichever is current then, its own successor is here already."""
    grant = plant(world.engine, world.vault, now=NOW)
    (first,) = world.claim()
    late = {"fence": first.fence + 7}
    second = world.brought(first, rt="second", read=False)
    third = world.brought(first, rt="third", parent_fp=second.rt_fp, generation=8, **late)
    assert world.settle(second) == [Fate.CANDIDATE]
    assert world.settle(third) == [Fate.CANDIDATE]
    assert world.take_over() == []
    assert row_of(world.engine, grant).rt_fp == third.rt_fp


def test_no_token_is_sent_again_once_its_successor_has_come(world):
    plant(world.engine, world.vault, now=NOW)
    (slow,) = world.claim()
    (quick,) = world.take_over()
    assert world.claims["p2"].extend([quick], lease=20.0) == {quick.grant}
    world.settle(world.brought(slow, rt="successor"))
    assert world.claims["p2"].extend([quick], lease=20.0) == set()


def test_the_successor_of_the_current_token_takes_its_place_once_nobody_holds_it(world):
    grant = plant(world.engine, world.vault, now=NOW)
    (slow,) = world.claim()
    (quick,) = world.take_over()
    world.settle(world.brought(slow, rt="successor"))
    late = Postponed(
        grant=grant, attempt=quick.attempt, fence=quick.fence, code="x", due_at=NOW, failures=1
    )
    assert world.settle(late) == [Fate.APPLIED]
    assert opened(world.engine, world.vault, grant) == "successor"


def test_a_replayed_successor_is_current_at_once_where_the_store_was_rolled_back(world):
    """C16: the restored store still has the parent; two generations come from the journal."""
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    first = world.brought(claim)
    second = world.brought(
        claim,
        rt="r2",
        fence=claim.fence + 1,
        parent_fp=first.rt_fp,
        generation=claim.next_generation + 1,
    )
    with writing(world.engine) as db:
        db.execute(update(GrantRow).values(attempt=None, fence=0))
    world.settle(first)
    world.settle(second)
    row = row_of(world.engine, grant)
    assert row.rt_fp == second.rt_fp


def test_a_login_that_came_during_the_exchange_is_promoted_by_whoever_ends_it(world):
    """M7; the family it replaces waits until the new one has renewed once (M3)."""
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    world.login_arrives(grant)
    world.settle(world.brought(claim))
    assert opened(world.engine, world.vault, grant) == "login"
    (old,) = candidates_of(world.engine, grant)
    assert (old.why, old.rt_fp) == ("superseded_family", world.vault.fingerprint(Secret("r1")))
    (again,) = world.claim()
    assert again.family == 1
    world.settle(world.brought(again, rt="login-2"))
    (old,) = candidates_of(world.engine, grant)
    assert old.spent_at is not None


def test_a_login_whose_successor_comes_was_spent_and_is_not_promoted(world):
    """C16: the store lost the commit that renewed it, and a journal brings what came of it."""
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    world.login_arrives(grant)
    login = world.vault.fingerprint(Secret("login"))
    lost = {"fence": claim.fence + 1, "attempt": uuid4(), "generation": 9, "family": 1}
    assert world.settle(world.brought(claim, rt="login.1", parent_fp=login, **lost)) == [
        "candidate"
    ]
    assert world.settle(world.refused(claim)) == ["next_candidate"]
    assert row_of(world.engine, grant).rt_fp == world.vault.fingerprint(Secret("login.1"))
    waits = {one.rt_fp: one.why for one in candidates_of(world.engine, grant)}
    assert waits[login] == "parent"


@pytest.mark.parametrize("order", [(2, 1, 0), (2, 0, 1), (1, 2, 0), (0, 2, 1), (1, 0, 2)])
def test_a_chain_of_successors_rises_in_whatever_order_journals_bring_it(world, order):
    """C16: of a store that lost the commits of three, in three journals; one had half an answer."""
    grant = plant(world.engine, world.vault, now=NOW, rt="r0")
    (claim,) = world.claim()
    chain = ["r0", "r1", "r2", "r3"]
    prints = [world.vault.fingerprint(Secret(token)) for token in chain]
    for n in order:
        late = {"fence": claim.fence + n, "attempt": uuid4(), "generation": 2 + n, "read": False}
        world.settle(world.brought(claim, rt=chain[n + 1], parent_fp=prints[n], **late))
    seen = world.claims["p1"].unfinished("google-oauth2", ["acme"], dead=("p1",))
    assert world.claims["p1"].take_over(seen, lease=20.0) == []
    assert row_of(world.engine, grant).rt_fp == prints[-1]


def test_what_a_late_token_came_of_is_never_news(world):
    """C16: a store that lost its last commits may have lost the login, too; Auth0 has its copy."""
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    login = world.vault.fingerprint(Secret("login"))
    world.settle(world.brought(claim, rt="login.1", parent_fp=login, fence=claim.fence + 1))
    with reading(world.engine) as connection:
        assert seen.holds(connection, grant, login)


@pytest.mark.parametrize("ending", ["postponed", "uncertain"])
def test_a_login_is_promoted_even_if_the_exchange_brought_nothing(world, ending):
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    world.login_arrives(grant)
    kind = Postponed if ending == "postponed" else LeftUncertain
    world.settle(
        kind(
            grant=grant, attempt=claim.attempt, fence=claim.fence, code="x", due_at=NOW, failures=1
        )
    )
    assert opened(world.engine, world.vault, grant) == "login"
    assert row_of(world.engine, grant).attempt is None


def test_an_uncertain_attempt_keeps_its_record_for_the_takeover(world):
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    world.settle(
        LeftUncertain(
            grant=grant,
            attempt=claim.attempt,
            fence=claim.fence,
            code="timeout",
            due_at=NOW,
            failures=2,
        )
    )
    row = row_of(world.engine, grant)
    assert (row.attempt, row.uncertain, row.failures) == (claim.attempt, True, 2)
    assert world.claim() == []
    (unfinished,) = world.claims["p2"].unfinished("google-oauth2", ["acme"], dead=())
    assert unfinished.earlier.uncertain


def test_tokens_that_reach_a_deleted_grant_wait_for_the_revoker(world):
    """C20: dropping them would leave a living consent at the provider that nobody can end."""
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    with writing(world.engine) as db:
        db.execute(
            update(GrantRow).values(
                state=GrantState.TOMBSTONED.value,
                tombstoned_at=NOW,
                due_at=None,
                fence=GrantRow.fence + 1,
            )
        )
    assert world.settle(world.brought(claim)) == [Fate.GONE]
    (candidate,) = candidates_of(world.engine, grant)
    assert candidate.why == "tombstoned"
    assert row_of(world.engine, grant).state == GrantState.TOMBSTONED


def test_tokens_in_an_answer_that_was_no_renewal_are_kept_and_tried(world):
    """C21: the answer was malformed, but the provider may have rotated."""
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    odd = world.brought(claim, rt="odd", read=False)
    gave_up = Postponed(
        grant=grant, attempt=claim.attempt, fence=claim.fence, code="x", due_at=NOW, failures=1
    )
    assert world.settle(odd)[0] is Fate.CANDIDATE
    assert world.settle(gave_up) == [Fate.APPLIED]
    assert opened(world.engine, world.vault, grant) == "odd"
    (parent,) = candidates_of(world.engine, grant)
    assert (parent.why, parent.spent_at) == ("parent", None)


def test_a_refused_token_gives_way_to_the_newest_candidate(world):
    grant = plant(world.engine, world.vault, now=NOW)
    (slow,) = world.claim()
    (quick,) = world.take_over()
    world.settle(world.brought(slow, rt="sibling"))
    world.settle(world.brought(quick, rt="dead"))
    with writing(world.engine) as db:
        db.execute(update(CandidateRow).values(spent_at=None))
        db.execute(update(GrantRow).values(due_at=NOW))
    (claim,) = world.claim()
    assert world.settle(world.refused(claim)) == [Fate.NEXT_CANDIDATE]
    assert opened(world.engine, world.vault, grant) == "sibling"
    assert row_of(world.engine, grant).state == GrantState.ACTIVE
    spent = [c for c in candidates_of(world.engine, grant) if c.spent_at is not None]
    assert [c.why for c in spent] == ["refused"]


def test_one_refusal_makes_suspect_and_a_final_one_needs_a_login_with_one_notice(world):
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    assert world.settle(world.refused(claim)) == [Fate.SUSPECT]
    row = row_of(world.engine, grant)
    assert (row.state, row.suspect_since) == (GrantState.SUSPECT, NOW)
    assert row.due_at == NOW + timedelta(seconds=60)
    with writing(world.engine) as db:
        db.execute(update(GrantRow).values(due_at=NOW))
    (again,) = world.claim()
    assert world.settle(world.refused(again, final=True)) == [Fate.NEEDS_REAUTH]
    row = row_of(world.engine, grant)
    assert (row.state, row.reason, row.due_at) == (GrantState.NEEDS_REAUTH, "invalid_grant", None)
    assert row.refresh_token is not None
    assert world.settle(world.refused(again, final=True)) == [Fate.LATE]
    assert world.count(OutboxRow) == 1


def test_a_refusal_waits_while_an_earlier_attempt_may_bring_the_successor(world):
    grant = plant(world.engine, world.vault, now=NOW)
    (claim,) = world.claim()
    until = datetime.now(UTC) + timedelta(seconds=500)
    fates = world.settle(world.refused(claim, final=True, unresolved_until=until))
    assert fates == [Fate.SUSPECT]
    assert row_of(world.engine, grant).due_at == until


def test_a_mass_of_refusals_holds_all_verdicts_until_one_of_them_renews(world):
    plant_connection(world.engine)
    for n in range(25):
        plant(world.engine, world.vault, now=NOW, rt=f"rt{n}")
    lately = datetime.now(UTC)  # NOW is of when the suite began, which the brake has forgotten
    world.settle(*[world.refused(c, at=lately) for c in world.claim()])
    with reading(world.engine) as db:
        until = db.execute(select(ConnectionRow.brake_until)).scalar_one()
        kinds = db.execute(select(OutboxRow.kind)).scalars().all()
    assert until > NOW
    assert kinds == ["verdicts_held"]
    with writing(world.engine) as db:
        db.execute(update(GrantRow).values(due_at=NOW))
    first, *rest = world.claim()
    assert set(world.settle(*[world.refused(c, final=True) for c in rest])) == {Fate.HELD}
    assert world.settle(world.brought(first, healed=True)) == [Fate.APPLIED]
    with reading(world.engine) as db:
        assert db.execute(select(ConnectionRow.brake_until)).scalar_one() is None


def test_a_refresh_token_that_another_grant_holds_makes_an_alias(world):
    """C18: two grants that spent one token would lose the family."""
    first = plant(world.engine, world.vault, now=NOW, rt="one")
    twin = plant(world.engine, world.vault, now=NOW, rt="two")
    claims = {c.grant: c for c in world.claim()}
    world.settle(world.brought(claims[first], rt="same"))
    plant(world.engine, world.vault, now=NOW, rt="three")
    (third,) = world.claim()
    group = [world.brought(claims[twin], rt="same"), world.brought(third, rt="fine")]
    with pytest.raises(PermanentError):
        world.settle(*group)
    assert world.settle(world.brought(claims[twin], rt="same")) == [Fate.APPLIED]
    row = row_of(world.engine, twin)
    assert (row.alias_of, row.rt_fp, row.due_at) == (first, None, None)


def test_a_store_that_forgot_commits_shows_a_lower_count(world):
    plant(world.engine, world.vault, now=NOW, rt="1")
    plant(world.engine, world.vault, now=NOW, rt="2")
    one, two = world.claim()
    assert world.settling.settle([world.brought(one, rt="3")]).counter == 1
    assert world.settling.settle([world.brought(two, rt="4")]).counter == 2
    assert world.settling.counter("p1") == 2
    assert world.settling.counter("p9") == 0
    for value in (1, 7, 3):
        world.settling.restore_counter("p1", value)
    assert world.settling.counter("p1") == 7


def test_a_late_ending_without_tokens_changes_nothing(world):
    grant = plant(world.engine, world.vault, now=NOW)
    (slow,) = world.claim()
    world.take_over()
    before = row_of(world.engine, grant)
    late = Postponed(
        grant=grant, attempt=slow.attempt, fence=slow.fence, code="x", due_at=NOW, failures=9
    )
    assert world.settle(late) == [Fate.LATE]
    assert world.settle(world.refused(slow, final=True)) == [Fate.LATE]
    assert row_of(world.engine, grant) == before
