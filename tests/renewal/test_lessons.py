"""What a renewal teaches, once its tokens are safe: an end nobody told, a provider that changed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from tests.planted import opened, plant_connection, row_of
from tests.simulation.provider import answer
from tests.simulation.virtual_time import run
from tests.simulation.world import PROVIDER, Fault
from worker.domain.exchange import Rotation
from worker.domain.grant import ExpiryKind, GrantKey, GrantState
from worker.domain.learned import Change
from worker.store import outbox
from worker.store.connections import ConnectionRepository
from worker.store.engine import reading
from worker.store.learning import LearningRepository
from worker.store.tables import OutboxRow


def without(name):
    def mangle(told):
        body = json.loads(told.body)
        body.pop(name, None)
        return replace(told, body=json.dumps(body).encode())

    return mangle


def untold(told_to_the_question):
    """Answers name no end; the question for it is answered so."""

    def faults(request):
        if request.url.endswith("/introspect"):
            return Fault(answer=told_to_the_question())
        return Fault(mangle=without("expires_in"))

    return faults


def notices(w):
    with reading(w.store) as db:
        asked = select(OutboxRow.kind, OutboxRow.notice).order_by(OutboxRow.id)
        return [(kind, notice["reason"]) for kind, notice in db.execute(asked)]


async def renewed(w, process):
    counts = await process.drain()
    await process.clock.sleep(5)  # the question is asked beside the drain
    return counts


def test_an_end_that_no_answer_tells_is_asked_for_and_moves_the_renewal(world):
    async def story():
        w = world(Rotation.N)
        w.entry.introspects = True
        ends = w.now() + timedelta(hours=12)
        w.network.faults = untold(lambda: answer(200, {"exp": ends.timestamp()}))
        grant = w.plant()
        assert await renewed(w, w.start()) == {"renewed": 1}
        row = row_of(w.store, grant)
        assert (row.expiry, row.expires_at) == (ExpiryKind.AT, ends)
        assert w.now() + timedelta(hours=9) < row.due_at < ends

    run(story())


def test_a_question_that_fails_changes_nothing_of_the_grant(world):
    async def story():
        for bad in (answer(500, b"oops"), answer(429, {}), answer(401, {"error": "invalid_grant"})):
            w = world(Rotation.S)
            w.entry.introspects = True
            w.network.faults = untold(lambda bad=bad: bad)
            grant = w.plant()
            assert await renewed(w, w.start()) == {"renewed": 1}
            row = row_of(w.store, grant)
            assert (row.expiry, row.state, row.failures) == (ExpiryKind.UNTOLD, "active", 0)
            assert row.due_at > w.now()
            assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest

    run(story())


def test_an_end_that_is_told_too_late_does_not_touch_newer_tokens(world):
    async def story():
        w = world(Rotation.N)
        grant = w.plant(generation=3, expiry=ExpiryKind.UNTOLD.value, expires_at=None)
        learning = LearningRepository(w.store, tell=outbox.add)
        end = {"expires_at": w.now() + timedelta(hours=9), "due_at": w.now()}
        assert not learning.end_told(grant, generation=2, **end)
        assert row_of(w.store, grant).expires_at is None
        assert learning.end_told(grant, generation=3, **end)

    run(story())


async def test_tokens_are_renewed_before_the_age_at_which_the_provider_refused_some(world):
    """Three different grants must have been refused; one that answers 401 for fun is not enough."""
    ages = [7200.0, 900.0, 3000.0]
    w = world(Rotation.N)
    learning = LearningRepository(w.store, tell=outbox.add)
    for age in ages:
        assert w.config().learned.life is None
        grant = w.plant(f"r{age}", identity=str(age))
        learning.refused(_key(w, grant), grant, age=age)
        learning.refused(_key(w, grant), grant, age=age)
    assert w.config().learned.life == timedelta(seconds=3000)


async def test_nobody_can_talk_us_into_renewing_all_the_time(world):
    w = world(Rotation.N)
    for n in range(30):
        grant = w.plant(f"r{n}")
        LearningRepository(w.store, tell=outbox.add).refused(_key(w, grant), grant, age=1.0)
    assert w.config().learned.life == timedelta(minutes=5)


def test_a_provider_that_begins_to_rotate_is_told_once_with_counts_and_treated_strictly(world):
    async def story():
        w = world(Rotation.F)
        w.entry._declared = Rotation.N  # as its entry says; its answers say otherwise
        grants = [w.plant(f"r{n}") for n in range(5)]
        process = w.start()
        assert await renewed(w, process) == {"renewed": 5}
        [(kind, reason)] = notices(w)
        assert kind == "provider_changed"
        assert "5 of 5 grants" in reason
        assert all(row_of(w.store, grant).rotated_before for grant in grants)
        newcomer = w.plant("late")
        rules = await _rules(process, newcomer, w)
        assert rules.rotation is Rotation.F
        assert await renewed(w, process) == {"renewed": 1}
        assert len(notices(w)) == 1

    run(story())


def test_a_provider_that_stops_rotating_is_told_and_its_class_stays_strict(world):
    async def story():
        w = world(Rotation.S)
        w.network.faults = lambda _: Fault(mangle=without("refresh_token"))
        grant = w.plant(rotated_before=True)
        process = w.start()
        assert await renewed(w, process) == {"renewed": 1}
        [(kind, reason)] = notices(w)
        assert (kind, "without a new one" in reason) == ("provider_changed", True)
        assert (await _rules(process, grant, w)).rotation is Rotation.S
        assert row_of(w.store, grant).state == GrantState.ACTIVE

    run(story())


@pytest.mark.parametrize("rotation", [Rotation.F, Rotation.G, Rotation.M])
def test_where_a_new_refresh_token_only_may_come_its_absence_is_no_news(world, rotation):
    async def story():
        w = world(rotation, grace=30.0)
        w.network.faults = lambda _: Fault(mangle=without("refresh_token"))
        w.plant(rotated_before=True)
        assert await renewed(w, w.start()) == {"renewed": 1}
        assert notices(w) == []

    run(story())


async def test_what_was_learned_outlives_the_next_read_of_the_connection(world):
    w = world(Rotation.N)
    grant = w.plant()
    learning = LearningRepository(w.store, tell=outbox.add)

    assert learning.changed(_key(w, grant), PROVIDER, Change.ROTATES, w.now())
    ConnectionRepository(w.store, w.vault).put(w.config(), options_seen=True)
    assert w.config().learned.rotating == {PROVIDER}
    assert learning.changes("acme") == {
        PROVIDER: [
            f"{PROVIDER} is declared to keep its refresh tokens, but answered with new ones "
            f"(0 of 1 grants so far), first seen {w.now():%Y-%m-%d}"
        ]
    }


async def test_what_is_noticed_on_one_connection_leaves_another_alone(world):
    w = world(Rotation.N)
    plant_connection(w.store, name="other")
    grant = w.plant()

    LearningRepository(w.store, tell=outbox.add).changed(
        _key(w, grant), PROVIDER, Change.ROTATES, w.now()
    )
    other = ConnectionRepository(w.store, w.vault).get("acme", "other")
    assert other.learned.rotating == frozenset()


def _key(w, grant):

    row = row_of(w.store, grant)
    return GrantKey(
        tenant=row.tenant, connection=row.connection, identity_user_id=row.identity_user_id
    )


async def _rules(process, grant, w):
    resolver = process.engine._resolver
    key = _key(w, grant)
    await resolver.prefetch([key])
    before = row_of(w.store, grant).rotated_before
    return resolver.rules(key, PROVIDER, rotated_before=before)
