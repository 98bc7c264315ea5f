"""Refusals: a grant dies slowly, for the right reason, and is told once (I8)."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy import select, update

from tests.planted import candidates_of, keep_candidate, opened, plant, row_of
from tests.simulation.provider import answer
from tests.simulation.virtual_time import run
from tests.simulation.world import PROVIDER, Fault
from worker.domain.exchange import Limits, Reading, Rotation, Verdict
from worker.domain.grant import GrantState
from worker.domain.secret import Secret
from worker.store.engine import reading, writing
from worker.store.reopening import bring_forward
from worker.store.tables import CandidateRow, GrantRow, OutboxRow


def notices(w):
    with reading(w.store) as db:
        return list(db.execute(select(OutboxRow.kind).order_by(OutboxRow.id)).scalars())


async def live(process, seconds_, tick=5):
    """Ticks, as the scheduler gives them."""
    for _ in range(int(seconds_ / tick)):
        await process.drain(budget=tick)
        await asyncio.sleep(tick)


def test_a_dead_grant_is_asked_about_twice_and_told_once(world):
    async def story():
        w = world()
        grant = w.plant()
        w.ledger.revoke("r0")
        process = w.start()
        await live(process, 300)
        row = row_of(w.store, grant)
        assert (row.state, row.reason) == (GrantState.NEEDS_REAUTH, "invalid_grant")
        (first, _), (second, _) = w.network.sent
        assert second - first >= 60
        assert notices(w) == ["grant_needs_login"]
        assert opened(w.store, w.vault, grant, "at") == "a0"

    run(story())


def test_a_second_refusal_within_the_minute_is_not_the_last_word(world):
    """I8: whatever brings the next attempt forward, an app's wish for instance."""

    async def story():
        w = world()
        grant = w.plant()
        w.ledger.revoke("r0")
        process = w.start()
        await process.drain()
        for _ in range(3):
            await asyncio.sleep(10)
            with writing(w.store) as db:
                db.execute(update(GrantRow).values(due_at=w.now()))
            await process.drain()
        assert len(w.network.sent) > 1
        assert row_of(w.store, grant).state == GrantState.SUSPECT

    run(story())


def test_one_false_refusal_does_not_end_a_login_whose_forerunner_is_dead(world):
    """I8: the latest token is refused by mistake, the family before it truly; the last word is
    about the latest, and that is alive."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant("new")
        w.ledger.login("old")
        w.ledger.revoke("old")
        with writing(w.store) as db:
            db.execute(update(GrantRow).values(family=1))
        row = row_of(w.store, grant)
        keep_candidate(w.store, w.vault, grant, rt="old", why="superseded_family", now=w.now())
        with writing(w.store) as db:
            db.execute(update(CandidateRow).values(family=0))
        refused = iter([Fault(answer=answer(400, {"error": "invalid_grant"}))])
        w.network.faults = lambda _: next(refused, Fault())
        await live(w.start(), 150)
        assert row.rt_fp != row_of(w.store, grant).rt_fp
        assert opened(w.store, w.vault, grant) == w.ledger.families["new"].newest
        assert [token for _, token in w.network.sent] == ["new", "old", "new"]
        assert notices(w) == []

    run(story())


def test_three_calls_are_the_most_for_a_dead_grant_with_a_dead_forerunner(world):
    async def story():
        w = world(Rotation.F)
        grant = w.plant("new")
        w.ledger.login("old")
        keep_candidate(w.store, w.vault, grant, rt="old", why="login", now=w.now())
        for token in ("new", "old"):
            w.ledger.revoke(token)
        await live(w.start(), 300)
        assert row_of(w.store, grant).state == GrantState.NEEDS_REAUTH
        assert len(w.network.sent) == 3
        assert notices(w) == ["grant_needs_login"]

    run(story())


def test_auth0s_copy_is_read_before_the_last_word(world):
    """The user has logged in meanwhile: the pull brings what that login brought."""

    async def story():
        w = world()
        grant = w.plant(user_id="test-idp|7")
        w.ledger.revoke("r0")
        w.ledger.login("fresh")

        def login(user_id):
            row = row_of(w.store, grant)
            sealed = w.vault.seal(
                Secret("fresh"),
                tenant="acme",
                grant=grant,
                generation=row.last_generation + 1,
                kind="rt",
                key=row.refresh_key,
            )
            with writing(w.store) as db:
                db.execute(
                    update(GrantRow).values(
                        refresh_token=sealed,
                        rt_fp=w.vault.fingerprint(Secret("fresh")),
                        generation=row.last_generation + 1,
                        last_generation=row.last_generation + 1,
                        state=GrantState.ACTIVE.value,
                        suspect_since=None,
                        due_at=w.now(),
                    )
                )

        w.pull.on_user = login
        await live(w.start(), 30)
        assert w.pull.users == ["test-idp|7"]
        assert row_of(w.store, grant).state == GrantState.ACTIVE
        assert opened(w.store, w.vault, grant).startswith("fresh.")

    run(story())


def test_while_auth0_cannot_be_read_no_grant_is_called_dead(world):
    async def story():
        w = world()
        grant = w.plant()
        w.ledger.revoke("r0")
        w.pull.away = True
        process = w.start()
        await live(process, 600, tick=10)
        assert row_of(w.store, grant).state == GrantState.SUSPECT
        assert len(w.network.sent) == 1
        w.pull.away = False
        await live(process, 200)
        assert row_of(w.store, grant).state == GrantState.NEEDS_REAUTH
        assert len(w.network.sent) == 2

    run(story())


def test_a_refusal_that_was_a_mistake_heals_by_itself(world):
    async def story():
        w = world()
        grant = w.plant()
        w.network.faults = lambda _: Fault(answer=answer(400, {"error": "invalid_grant"}))
        process = w.start()
        await live(process, 20)
        assert row_of(w.store, grant).state == GrantState.SUSPECT
        w.network.faults = lambda _: Fault()
        await live(process, 120)
        row = row_of(w.store, grant)
        assert (row.state, row.suspect_since, row.reason) == (GrantState.ACTIVE, None, None)
        assert notices(w) == []

    run(story())


@pytest.mark.parametrize(
    "wrong",
    [
        Fault(refuse=True),
        Fault(lose_request=True, lose_answer=True),
        Fault(cut_after=0.01),
        Fault(answer=answer(500, {"error": "server_error"})),
        Fault(answer=answer(503, b"<html>down</html>")),
        Fault(answer=answer(429, {})),
        Fault(answer=answer(307, {}, location="https://elsewhere.example")),
        Fault(answer=answer(200, b"not json")),
        Fault(answer=answer(200, {"refresh_token": ""})),
        Fault(answer=answer(403, b"blocked by a proxy")),
    ],
    ids=["refused", "lost", "reset", "500", "503", "429", "307", "html", "empty", "403"],
)
def test_trouble_on_the_way_is_never_taken_for_a_refusal(world, wrong):
    async def story():
        w = world(Rotation.N)
        grant = w.plant()
        w.network.faults = lambda _: wrong
        process = w.start()
        await live(process, 3600, tick=20)
        row = row_of(w.store, grant)
        assert row.state == GrantState.ACTIVE
        assert len(w.network.sent) <= 7
        assert notices(w) == []
        w.network.faults = lambda _: Fault()
        await live(process, 3600 * 2, tick=60)
        assert row_of(w.store, grant).generation > 0

    run(story())


def test_a_mass_of_refusals_kills_nobody(world):
    """A provider that for a while refuses everybody: more than twenty at once."""

    async def story():
        w = world(Rotation.N)
        grants = [w.plant(f"r{n}") for n in range(60)]
        w.network.faults = lambda _: Fault(answer=answer(400, {"error": "invalid_grant"}))
        process = w.start()
        await live(process, 1800, tick=20)
        states = {row_of(w.store, grant).state for grant in grants}
        assert GrantState.NEEDS_REAUTH not in states
        assert notices(w) == ["verdicts_held"]
        w.network.faults = lambda _: Fault()
        await live(process, 7200, tick=60)
        assert {row_of(w.store, grant).state for grant in grants} == {GrantState.ACTIVE}

    run(story())


def test_tokens_in_a_malformed_answer_are_not_lost(world):
    """C21: the provider rotated, and its answer has no access token in it."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant()
        w.network.faults = lambda _: Fault(mangle=lambda told: answer(200, only_refresh(told)))
        process = w.start()
        await process.drain()
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        w.network.faults = lambda _: Fault()
        await live(process, 60)
        assert row_of(w.store, grant).generation > 1
        assert w.ledger.double_spends == []

    run(story())


@pytest.mark.parametrize(
    ("rotation", "asked"), [(Rotation.M, 1), (Rotation.G, 0), (Rotation.S, 0), (Rotation.F, 0)]
)
def test_a_token_whose_successor_was_refused_is_asked_again_only_where_it_outlives_it(
    world, rotation, asked
):
    """I4: the successor came in half an answer, and is refused. Its parent is spent all the same,
    and the refusal may be an incident: to send the parent would then cost the family."""

    async def story():
        w = world(rotation, grace=30.0)
        w.plant()
        refused = Fault(answer=answer(400, {"error": "invalid_grant"}))
        half = Fault(mangle=lambda told: answer(200, only_refresh(told)))
        faults = iter([half, refused])
        w.network.faults = lambda _: next(faults, Fault())
        process = w.start()
        await live(process, 150)
        assert [token for _, token in w.network.sent][2:].count("r0") == asked
        assert w.ledger.double_spends == []

    run(story())


def only_refresh(told):
    return {"refresh_token": json.loads(told.body)["refresh_token"]}


def test_a_fault_in_reading_an_answer_does_not_cost_its_tokens(world, monkeypatch):
    async def story():
        w = world(Rotation.F)
        grant = w.plant()

        def broken(*_, **__):
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(w.entry, "read", broken)
        await w.start().drain()
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest

    run(story())


def test_the_very_token_sent_coming_back_on_a_resend_is_told_and_used(world):
    """C22: the access token is good, the refresh token may be dead already."""

    async def story():
        w = world(Rotation.G, grace=30.0)
        grant = w.plant()
        body = {"access_token": "a1", "refresh_token": "r0", "expires_in": 3600}
        answers = iter([Fault(cut_after=0.01), Fault(answer=answer(200, body))])
        w.network.faults = lambda _: next(answers)
        await w.start().drain()
        row = row_of(w.store, grant)
        assert (row.state, row.reason) == (GrantState.SUSPECT, "same_refresh_token")
        assert opened(w.store, w.vault, grant, "at") == "a1"
        assert notices(w) == ["same_refresh_token"]

    run(story())


def test_where_it_may_come_back_for_a_day_it_is_no_news(world):
    """QuickBooks: the refresh token changes once a day, in between the same one comes back."""

    async def story():
        w = world(Rotation.G, grace=30.0)
        w.entry.may_repeat = True
        grant = w.plant()
        body = {"access_token": "a1", "refresh_token": "r0", "expires_in": 3600}
        answers = iter([Fault(cut_after=0.01), Fault(answer=answer(200, body))])
        w.network.faults = lambda _: next(answers)
        await w.start().drain()
        assert row_of(w.store, grant).state == GrantState.ACTIVE
        assert opened(w.store, w.vault, grant, "at") == "a1"
        assert notices(w) == []

    run(story())


def with_an_older_family(w, new, old):
    """A grant that a login took over, and which still has the family from before it."""
    grant = w.plant(new)
    w.ledger.login(old)
    keep_candidate(w.store, w.vault, grant, rt=old, why="superseded_family", now=w.now())
    with writing(w.store) as db:
        db.execute(update(GrantRow).values(family=1))
        db.execute(update(CandidateRow).values(family=0))
    return grant


def test_a_mass_of_refusals_is_seen_where_each_has_two_families_too(world):
    """I8: as after a mass of new logins."""

    async def story():
        w = world(Rotation.F)
        grants = [with_an_older_family(w, f"new{n}", f"old{n}") for n in range(40)]
        w.network.faults = lambda _: Fault(answer=answer(400, {"error": "invalid_grant"}))
        await live(w.start(), 400)
        assert GrantState.NEEDS_REAUTH not in {row_of(w.store, one).state for one in grants}
        assert notices(w) == ["verdicts_held"]

    run(story())


def test_a_refusal_of_days_ago_is_not_the_first_of_two(world):
    """I8: the login's family died, the older one lives and has renewed since."""

    async def story():
        w = world(Rotation.F)
        grant = with_an_older_family(w, "new", "old")
        w.ledger.revoke("new")
        process = w.start()
        await live(process, 2 * 3600, tick=10)
        refusal = iter([Fault(answer=answer(400, {"error": "invalid_grant"}))])
        w.network.faults = lambda _: next(refusal, Fault())
        with writing(w.store) as db:
            db.execute(update(GrantRow).values(due_at=w.now()))
        await live(process, 600)
        assert next(refusal, None) is None
        assert row_of(w.store, grant).state == GrantState.ACTIVE
        assert notices(w) == []

    run(story())


def test_a_login_with_fewer_scopes_is_tried_before_the_last_word(world):
    """I8 and M6: it waits while the better one lives, and not for ever."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant("r0")
        w.ledger.login("fewer")
        keep_candidate(w.store, w.vault, grant, rt="fewer", why="fewer_scopes", now=w.now())
        w.ledger.revoke("r0")
        process = w.start()
        await live(process, 30)
        assert row_of(w.store, grant).state == GrantState.SUSPECT
        await live(process, 300)
        assert row_of(w.store, grant).state == GrantState.ACTIVE
        assert opened(w.store, w.vault, grant) == w.ledger.families["fewer"].newest

    run(story())


def test_after_a_refusal_the_kept_family_has_its_turn(world):
    """M3: a login's family is refused; the one it replaced is still alive."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant("old")
        await w.start().drain()
        other = plant(w.store, w.vault, now=w.now(), rt="spare", connection=PROVIDER, due_at=None)
        w.ledger.login("new")
        row = row_of(w.store, grant)
        keep_candidate(w.store, w.vault, grant, rt="new", why="superseded_family", now=w.now())
        w.ledger.revoke("old")
        with writing(w.store) as db:
            db.execute(update(GrantRow).where(GrantRow.id == grant).values(due_at=w.now()))
        await live(w.start(), 30)
        assert opened(w.store, w.vault, grant).startswith("new.")
        assert [c.why for c in candidates_of(w.store, grant)] == ["refused"]
        assert row.rt_fp == candidates_of(w.store, grant)[0].rt_fp
        assert row_of(w.store, other).generation == 0

    run(story())


def test_an_admins_act_that_is_awaited_is_told_once_and_asked_about_daily(world, monkeypatch):
    """Parked with the same refresh token, and as soon as the operator says it is mended."""

    async def story():
        w = world(Rotation.N)
        grant = w.plant()
        healing = Reading(verdict=Verdict.GRANT_DEAD, code="AADSTS50173", heals=True)
        monkeypatch.setattr(w.entry, "read", lambda *_, **__: healing)
        w.network.faults = lambda _: Fault(answer=answer(400, {}))
        await live(w.start(), 60 * 3600, tick=3600)
        assert len(w.network.sent) == 3
        row = row_of(w.store, grant)
        assert (row.state, row.reason) == (GrantState.ACTIVE, "AADSTS50173")
        assert notices(w) == ["grant_needs_admin"]
        with writing(w.store) as db:
            assert bring_forward(db, row.tenant, row.connection, w.now()) == 1
        monkeypatch.undo()
        w.network.faults = lambda _: Fault()
        await live(w.start(), 120)
        row = row_of(w.store, grant)
        assert row.generation > 0
        assert row.reason is None

    run(story())


def test_backing_off_never_asks_more_than_six_times_an_hour(world):
    """I12."""

    async def story():
        w = world(Rotation.G, grace=30.0)
        w.plant()
        w.network.faults = lambda _: Fault(lose_request=True, lose_answer=True)
        await live(w.start(), 2 * 3600, tick=30)
        times = [when for when, _ in w.network.sent]
        for first in times:
            assert sum(first <= when < first + 3600 for when in times) <= 6

    run(story())


def test_the_gap_a_provider_asks_for_is_kept_between_two_tries(world):
    """MSAL sends no identical request within a minute of a refusal."""

    async def story():
        w = world(Rotation.M)
        w.plant()
        w.entry.limits = Limits(concurrency=50, per_second=10_000.0, gap=timedelta(seconds=60))
        w.network.faults = lambda _: Fault(answer=answer(400, {"error": "busy"}))
        await live(w.start(), 300, tick=1)
        times = [when for when, _ in w.network.sent]
        assert len(times) >= 3
        assert min(later - sooner for sooner, later in pairwise(times)) >= 60

    run(story())


@pytest.mark.parametrize("rotation", [Rotation.N, Rotation.M])
def test_an_admins_act_that_is_awaited_once_more_is_told_once_more(world, monkeypatch, rotation):
    """A renewal in between has ended the episode; asking daily within one begins none."""

    async def story():
        w = world(rotation)
        grant, read = w.plant(), w.entry.read
        told = []
        for _ in range(2):
            healing = Reading(verdict=Verdict.GRANT_DEAD, code="AADSTS50173", heals=True)
            monkeypatch.setattr(w.entry, "read", lambda *_, said=healing, **__: said)
            w.network.faults = lambda _: Fault(answer=answer(400, {}))
            await live(w.start(), 60 * 3600, tick=3600)
            told.append(notices(w))
            monkeypatch.setattr(w.entry, "read", read)
            w.network.faults = lambda _: Fault()
            with writing(w.store) as db:
                db.execute(update(GrantRow).where(GrantRow.id == grant).values(due_at=w.now()))
            await live(w.start(), 120)
            assert row_of(w.store, grant).reason is None
        assert told == [["grant_needs_admin"], ["grant_needs_admin"] * 2]

    run(story())


def test_what_a_late_answer_healed_is_told_and_so_is_its_end(world):
    """The journal of a dead node comes after the verdict: a needed login is needed no more. When
    that family dies in turn, the app must hear it, though nobody has logged in."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant()
        dying = w.start(node="n1")
        w.at_step = lambda who, step: dying.kill() if (who, step) == (dying, "journaled") else None
        asyncio.get_running_loop().create_task(dying.drain(budget=5))
        await asyncio.sleep(1)
        w.at_step, w.ledger.rotation = None, Rotation.S  # the family lives on
        await live(w.start(node="n2"), 2000)
        assert (row_of(w.store, grant).state, notices(w)) == ("needs_reauth", ["grant_needs_login"])
        back = w.start(node="n1")
        await back.engine.sweep()
        await live(back, 60)
        assert row_of(w.store, grant).state == "active"
        assert notices(w) == ["grant_needs_login", "grant_recovered"]
        w.ledger.families["r0"].revoked = True
        await live(back, 3 * 3600, tick=20)
        assert row_of(w.store, grant).state == "needs_reauth"
        assert notices(w) == ["grant_needs_login", "grant_recovered", "grant_needs_login"]

    run(story())
