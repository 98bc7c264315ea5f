"""A process dies between any two steps; what it held is found again (C1 to C16)."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import delete, update

from tests.planted import opened, row_of
from tests.renewal.test_uncertain import live
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault, content_of, restore
from worker.domain.exchange import Rotation
from worker.store.engine import writing
from worker.store.tables import CounterRow, GrantRow, SeenRefreshTokenRow

BEFORE_THE_PROVIDER = ["claim_due", "claim_due.done", "extend", "extend.done", "connect"]
WITH_THE_ANSWER_IN_HAND = ["answer", "journal"]
AFTER_THE_JOURNAL = ["journaled", "settle", "settle.done"]
RECOVERABLE = [
    (rotation, step)
    for rotation in Rotation
    for step in BEFORE_THE_PROVIDER + WITH_THE_ANSWER_IN_HAND + AFTER_THE_JOURNAL
    if not (rotation in (Rotation.S, Rotation.F) and step in WITH_THE_ANSWER_IN_HAND)
]


def killing(process, step):
    """Kill it the first time it gets there."""

    def at(who, name):
        if who is process and name == step:
            process.kill()

    return at


@pytest.mark.parametrize(("rotation", "step"), RECOVERABLE)
def test_a_kill_at_any_step_loses_no_grant_that_could_be_kept(world, rotation, step):
    async def story():
        w = world(rotation, grace=30.0)
        grant = w.plant()
        doomed, other = w.start(), w.start()
        w.at_step = killing(doomed, step)
        asyncio.get_running_loop().create_task(doomed.drain(budget=5))
        await asyncio.sleep(1)
        await live([other], 80)
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        assert row_of(w.store, grant).generation > 0
        assert w.ledger.double_spends == []

    run(story())


@pytest.mark.parametrize("rotation", [Rotation.S, Rotation.F])
def test_a_stores_clock_that_steps_takes_no_claim_from_the_living(world, rotation):
    """As a new primary's may: leases and holds end at once, and the first attempt goes on."""

    async def story():
        w = world(rotation)
        grant = w.plant()
        slow = iter([Fault(back=100.0)])
        w.network.faults = lambda _: next(slow, Fault())
        first, other = w.start(node="n1"), w.start(node="n2")
        asyncio.get_running_loop().create_task(first.drain(budget=5))
        await asyncio.sleep(10)
        w.clock.skew = timedelta(hours=1)
        for _ in range(100):
            await other.engine.sweep(budget_seconds=1)
            await other.drain(budget=1)
            await asyncio.sleep(1)
        assert w.ledger.double_spends == []
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest

    run(story())


@pytest.mark.parametrize("step", ["claim_due.done", "connect", "answer", "journaled"])
def test_a_dead_attempt_is_retaken_within_seconds_on_its_own_host(world, step):
    """I11."""

    async def story():
        w = world(Rotation.G, grace=30.0)
        grant = w.plant()
        doomed, other = w.start(), w.start()
        w.at_step = killing(doomed, step)
        asyncio.get_running_loop().create_task(doomed.drain(budget=5))
        await asyncio.sleep(0.2)
        await live([other], 3, tick=1)
        assert row_of(w.store, grant).generation > 0

    run(story())


def test_on_another_node_the_lease_is_waited_for_and_the_grace_is_kept(world):
    async def story():
        w = world(Rotation.G, grace=30.0)
        grant = w.plant()
        doomed, other = w.start(node="n1"), w.start(node="n2")
        w.at_step = killing(doomed, "answer")
        asyncio.get_running_loop().create_task(doomed.drain(budget=5))
        await live([other], 26, tick=1)
        assert row_of(w.store, grant).generation > 0
        assert w.ledger.double_spends == []

    run(story())


def test_a_grace_counts_from_the_first_attempt_and_not_from_each_takeover(world):
    """Two attempts die one after the other, each within the grace of the one before; the third
    would send the token when the grace is long over, and cost the family where reuse revokes."""

    async def story():
        w = world(Rotation.G, grace=30.0)
        w.plant()
        one, two, other = w.start(), w.start(), w.start(node="n2")
        w.at_step = killing(one, "answer")
        asyncio.get_running_loop().create_task(one.drain(budget=5))
        await asyncio.sleep(20)
        w.at_step = lambda p, name: p is two and name == "answer" and p.kill()
        asyncio.get_running_loop().create_task(live([two], 4))
        await asyncio.sleep(2)
        assert len(w.network.sent) == 2
        await live([other], 25)
        in_grace = [when for when, _ in w.network.sent if when - w.network.sent[0][0] <= 30.0]
        assert len(w.network.sent) == len(in_grace)

    run(story())


def test_a_strict_token_on_another_node_is_held_until_its_journal_was_replayed(world):
    """C10: B lies in the journal of a node that is down; A must not be sent meanwhile."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant(life=timedelta(hours=2))
        doomed, far = w.start(node="n1"), w.start(node="n2")
        w.at_step = killing(doomed, "journaled")
        asyncio.get_running_loop().create_task(doomed.drain(budget=5))
        await live([far], 400, tick=10)
        assert row_of(w.store, grant).generation == 0
        assert len(w.network.sent) == 1
        back = w.start(node="n1")
        await live([back], 10)
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        assert w.ledger.double_spends == []

    run(story())


def test_while_the_store_is_away_tokens_wait_and_nothing_new_is_spent(world):
    """C11, I5."""

    async def story():
        w = world(Rotation.F)
        first = w.plant("r0")
        process = w.start()
        w.at_step = lambda p, name: name == "journaled" and setattr(w, "store_away", True)
        asyncio.get_running_loop().create_task(process.drain(budget=5))
        await asyncio.sleep(2)
        w.at_step = None
        second = w.plant("r1")
        await live([process], 30)
        assert len(w.network.sent) == 1
        w.store_away = False
        await live([process], 10)
        assert opened(w.store, w.vault, first) == w.ledger.families["r0"].newest
        assert opened(w.store, w.vault, second) == w.ledger.families["r1"].newest

    run(story())


def test_with_a_full_disk_what_came_goes_to_the_store_and_nothing_new_is_spent(world):
    async def story():
        w = world(Rotation.F)
        first = w.plant("r0")
        process = w.start()
        process.disk.full = True
        await process.drain(budget=5)
        assert opened(w.store, w.vault, first) == w.ledger.families["r0"].newest
        second = w.plant("r1")
        await live([process], 10)
        assert len(w.network.sent) == 1
        process.disk.full = False
        await live([process], 10)
        assert opened(w.store, w.vault, second) == w.ledger.families["r1"].newest

    run(story())


@pytest.mark.parametrize("dies", [False, True], ids=["same process", "next process"])
def test_a_store_that_forgot_its_last_commits_is_brought_forward_before_any_claim(world, dies):
    """C16, I24: after a failover the store has A again; B is in the journals."""

    async def story():
        w = world(Rotation.F)
        grants = [w.plant(f"r{n}") for n in range(5)]
        process = w.start()
        before = [row_of(w.store, grant) for grant in grants]
        await process.drain()
        with writing(w.store) as db:
            for row in before:
                values = dict(row._mapping)
                values.pop("id")
                db.execute(update(GrantRow).where(GrantRow.id == row.id).values(values))
            counted = CounterRow.name.startswith("rotated:")
            db.execute(update(CounterRow).where(counted).values(value=0))
        with writing(w.store) as db:
            db.execute(delete(SeenRefreshTokenRow).where(SeenRefreshTokenRow.generation.is_(None)))
        if dies:
            process.kill()
            process = w.start()
        else:
            w.store_away = True
            await live([process], 4)
            w.store_away = False
        await live([process], 20)
        assert w.ledger.double_spends == []
        for n, grant in enumerate(grants):
            assert opened(w.store, w.vault, grant) == w.ledger.families[f"r{n}"].newest

    run(story())


def test_a_node_that_never_comes_back_is_waited_for_as_long_as_a_hold(world):
    """I24: another history of the store, and one who knew the last one is silent."""

    async def story():
        w = world(Rotation.F)
        gone, here = w.start(node="n1"), w.start(node="n2")
        for process in (gone, here):
            await process.engine.sweep()
        gone.kill()
        w.lineage += 1
        w.plant()
        await live([here], 590)
        assert w.network.sent == []
        await live([here], 20)
        assert len(w.network.sent) == 1

    run(story())


def test_who_began_in_the_lost_window_is_waited_for_by_everybody(world):
    """I24: the new store knows neither what it has renewed nor that it exists. Its neighbours see
    that it lives: one that was born after it, too, and whoever waits for that node."""

    async def story():
        w = world(Rotation.F)
        known, far = w.start(node="n1"), w.start(node="n2")
        for process in (known, far):
            await process.engine.sweep()
        grant = w.plant()
        before = content_of(w.store)
        young = w.start(node="n1")
        await young.drain()
        known.kill()
        restore(w.store, before)
        w.lineage += 1
        born = w.start(node="n1")
        await live([born, far], 60)
        assert len(w.network.sent) == 1
        await live([young, born, far], 10)
        assert w.ledger.double_spends == []
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest

    run(story())


def test_a_replay_alone_does_not_speak_for_what_a_new_history_lacks(world):
    """I24: it brings what the dead had not written. What they had, the new store may lack."""

    async def story():
        w = world(Rotation.F)
        doomed, far = w.start(node="n1"), w.start(node="n2")
        for process in (doomed, far):
            await process.engine.sweep()
        w.plant()
        before = content_of(w.store)
        await live([doomed], 4)
        doomed.kill()
        restore(w.store, before)
        w.lineage += 1
        born = w.start(node="n1")
        w.at_step = lambda who, name: who is born and name == "_compare" and who.kill()
        asyncio.get_running_loop().create_task(born.engine.replay())
        await live([far], 20)
        assert len(w.network.sent) == 1

    run(story())


def test_a_process_that_ended_properly_is_not_waited_for(world):
    async def story():
        w = world(Rotation.F)
        gone, here = w.start(node="n1"), w.start(node="n2")
        for process in (gone, here):
            await process.engine.sweep()
        await gone.engine.stop()
        w.lineage += 1
        w.plant()
        await live([here], 6)
        assert len(w.network.sent) == 1

    run(story())


def test_a_journal_is_replayed_a_hundred_times_without_harm(world):
    async def story():
        w = world(Rotation.F)
        grant = w.plant()
        doomed = w.start()
        w.at_step = killing(doomed, "settle.done")
        asyncio.get_running_loop().create_task(doomed.drain(budget=5))
        await asyncio.sleep(1)
        other = w.start()
        for _ in range(100):
            other.disk.done.clear()
            await other.engine.replay()
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        assert row_of(w.store, grant).generation == 1

    run(story())


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_stepped_wall_clock_takes_no_claim_from_the_living(world, step):
    """T7."""

    async def story():
        w = world(Rotation.F)
        w.plant()
        one, other = w.start(), w.start()
        w.network.faults = lambda _: Fault(back=60.0)
        working = asyncio.create_task(one.drain(budget=5))
        await asyncio.sleep(2)
        w.clock.skew += timedelta(seconds=step)
        await live([other], 40)
        assert len(w.network.sent) == 1
        await working

    run(story())


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_worker_whose_clock_is_an_hour_off_renews_in_the_stores_time(world, step):
    """T7, I12: an hour slow, each token would have expired when it comes, and be due at once."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant()
        process = w.start()
        process.step_clock(step)
        await live([process], 120)
        assert len(w.network.sent) == 1
        row = row_of(w.store, grant)
        assert w.now() < row.due_at < row.expires_at <= w.now() + timedelta(hours=1)

    run(story())


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_worker_whose_clock_is_an_hour_off_calls_no_grant_dead_too_soon(world, step):
    """T7, I8: the minute before the last word is one of the store's clock."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant()
        w.ledger.revoke("r0")
        steady, stepped = w.start(), w.start()
        await steady.drain(budget=1)
        stepped.step_clock(step)
        await live([stepped], 120)
        assert row_of(w.store, grant).state == "needs_reauth"
        (first, _), (second, _) = w.network.sent
        assert second - first >= 60

    run(story())


@pytest.mark.parametrize(
    ("rotation", "grace", "kept"),
    [
        (Rotation.N, 0.0, True),
        (Rotation.M, 0.0, True),
        (Rotation.G, 600.0, True),
        (Rotation.F, 0.0, False),
    ],
)
def test_a_disk_lost_with_its_journal_costs_what_only_it_held(world, rotation, grace, kept):
    """C15: as a lost answer. Where the old token still works nothing is lost; where it does not,
    the successor that nobody has any more is the one loss, and a login mends it."""

    async def story():
        w = world(rotation, grace=grace)
        grant = w.plant()
        doomed, other = w.start(node="n1"), w.start(node="n2")
        w.at_step = killing(doomed, "journaled")
        asyncio.get_running_loop().create_task(doomed.drain(budget=5))
        await asyncio.sleep(1)
        w.lose_disk("n1")
        await live([other], 900)
        row = row_of(w.store, grant)
        if kept:
            assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
            assert w.ledger.double_spends == []
        else:
            assert row.state == "needs_reauth"
            assert w.ledger.double_spends == ["r0"]

    run(story())


def test_what_somebody_else_spends_is_left_to_him(world):
    """C19: a quarantined grant is mirrored, and no worker ever sends its token."""

    async def story():
        w = world(Rotation.F)
        w.plant("r0", state="quarantined", reason="shared_spender")
        mine = w.plant("r1")
        await live([w.start()], 60)
        assert {token for _, token in w.network.sent} == {"r1"}
        assert row_of(w.store, mine).generation == 1

    run(story())
