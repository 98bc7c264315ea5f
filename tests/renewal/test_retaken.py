"""What is unknown of an attempt stays unknown, whatever becomes of the one that took over (I4).

Each story was first told by a seed of the storm.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import update

from tests.planted import opened, row_of
from tests.renewal.test_crashes import killing
from tests.renewal.test_uncertain import live
from tests.simulation.auth0 import Register
from tests.simulation.provider import answer
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault
from worker.domain.exchange import Rotation
from worker.domain.grant import AttemptId
from worker.renewal.trusting import TURN
from worker.store.engine import writing
from worker.store.tables import GrantRow

LONG = timedelta(hours=2)  # the access token's end is no reason to hurry


async def successor_in_a_journal_far_away(w):
    """A process of n1 has got the successor, synced it, and died; n1 stays down."""
    doomed = w.start(node="n1")
    w.at_step = killing(doomed, "journaled")
    asyncio.get_running_loop().create_task(doomed.drain(budget=5))
    await asyncio.sleep(18.5)  # its lease is over, its grace is not
    w.at_step = None


def sent_late(w):
    first = w.network.sent[0][0]
    return [when for when, token in w.network.sent if token == "r0" and when - first > 30.0]


async def pauses_before_the_write(w, taker):
    """The gate is shut when it wakes, and it gives its claim back."""
    w.at_step = lambda p, name: p is taker and name == "connect" and p.pause()
    asleep = asyncio.create_task(live([taker], 4, tick=1))
    await asyncio.sleep(15)
    w.at_step = None
    taker.resume()
    await asleep


async def finds_no_connection(w, taker):
    w.network.faults = lambda _: Fault(refuse=True)
    await live([taker], 2, tick=1)
    w.network.faults = lambda _: Fault()


async def dies_before_the_write(w, taker):
    w.at_step = killing(taker, "connect")
    asyncio.get_running_loop().create_task(live([taker], 4, tick=1))
    await asyncio.sleep(4)
    w.at_step = None


async def hears_no_answer(w, taker):
    w.network.faults = lambda _: Fault(lose_answer=True)
    await live([taker], 20, tick=1)
    w.network.faults = lambda _: Fault()


@pytest.mark.parametrize(
    "retaken",
    [pauses_before_the_write, finds_no_connection, dies_before_the_write, hears_no_answer],
)
def test_a_takeover_in_the_grace_proves_nothing_about_who_held_the_token_before(world, retaken):
    async def story():
        w = world(Rotation.G, grace=30.0)
        grant = w.plant(life=LONG)
        await successor_in_a_journal_far_away(w)
        taker, other = w.start(node="n2"), w.start(node="n2")
        await retaken(w, taker)
        await asyncio.sleep(15)  # now the grace is over
        await live([other], 400, tick=2)
        assert sent_late(w) == []
        await live([w.start(node="n1"), other], 700, tick=2)
        assert sent_late(w) == []
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        assert w.ledger.double_spends == []

    run(story())


def test_and_who_stays_silent_is_waited_for_as_long_as_a_hold(world):
    async def story():
        w = world(Rotation.G, grace=30.0)
        w.plant(life=LONG)
        await successor_in_a_journal_far_away(w)
        taker, other = w.start(node="n2"), w.start(node="n2")
        await finds_no_connection(w, taker)
        await asyncio.sleep(15)
        await live([other], 700, tick=2)
        first, *_, last = [when for when, _ in w.network.sent]
        assert last - first > 590

    run(story())


def test_a_grace_goes_on_counting_when_a_takeover_gave_its_claim_back(world):
    """The first attempt used the token and died; the second, which had proof of that, found no
    connection. Whoever claims the grant then does not begin the grace anew."""

    async def story():
        w = world(Rotation.G, grace=30.0)
        w.plant(life=LONG)
        one, two, three = w.start(node="n1"), w.start(node="n1"), w.start(node="n1")
        w.at_step = killing(one, "answer")
        asyncio.get_running_loop().create_task(one.drain(budget=5))
        await asyncio.sleep(1)
        await finds_no_connection(w, two)
        await asyncio.sleep(15)
        w.at_step = lambda p, name: p is three and name == "answer" and p.pause()
        asyncio.get_running_loop().create_task(three.drain(budget=5))
        await live([w.start(node="n2")], 60, tick=2)
        assert len(w.network.sent) == 2
        assert sent_late(w) == []

    run(story())


@pytest.mark.parametrize("flickers", [False, True])
@pytest.mark.parametrize("rotation", [Rotation.G, Rotation.F])
def test_when_the_store_comes_back_the_holder_of_a_successor_has_his_turn_first(
    world, rotation, flickers
):
    """C11: a hold that ended meanwhile, as it does where the access token is over, is no reason to
    send the parent in the very second in which the successor could be written."""

    async def story():
        w = world(rotation, grace=30.0)
        grant = w.plant(life=timedelta(minutes=50, seconds=1))  # over in a second
        holder, far = w.start(node="n1"), w.start(node="n2")
        loop = asyncio.get_running_loop()
        back_at = [loop.time() + 140, *([loop.time() + 150] if flickers else [])]

        def at(who, step):
            if who is not holder or step != "settle":
                return
            w.store_away = bool(back_at)
            if back_at and loop.time() > back_at[0]:  # just after the holder has tried in vain
                back_at.pop(0)
                loop.call_later(0.01, setattr, w, "store_away", False)
                if back_at:
                    loop.call_later(1.5, setattr, w, "store_away", True)

        w.at_step = at
        asyncio.get_running_loop().create_task(holder.drain(budget=1))
        await live([far], 170, tick=1)
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        assert w.ledger.double_spends == []
        assert [token for _, token in w.network.sent] == ["r0"]

    run(story())


@pytest.mark.parametrize("asks", ["drain", "sweep"])
def test_who_finds_the_store_away_begins_to_wait_anew(world, asks):
    """Each way of finding out counts: a worker that is only ever told of work does not sweep."""

    async def story():
        w = world(Rotation.F)
        w.plant()
        process, attempt = w.start(), AttemptId(uuid4())
        trusted = process.engine._finder._trusted
        await process.drain(budget=1)
        assert not trusted.may_take(attempt, 0.0, lease=0.0)
        w.store_away = True
        await (process.drain(budget=1) if asks == "drain" else process.engine.sweep())
        assert not trusted.may_take(attempt, TURN, lease=0.0)
        assert trusted.may_take(attempt, 2 * TURN, lease=0.0)

    run(story())


@pytest.mark.parametrize("dead", [True, False], ids=["revoked", "refused by mistake"])
def test_a_login_does_not_make_the_old_family_free_that_somebody_holds(world, dead):
    """He stands still with its successor; the login's token is refused, and the old one's turn
    comes when his hold has ended, not before."""

    async def story():
        w = world(Rotation.F)
        w.pull = Register(w)
        grant = w.plant("old", life=LONG)
        w.pull.know(grant, "old")
        holder = w.start(node="n1")
        w.at_step = lambda p, name: p is holder and name == "answer" and p.pause()
        asyncio.get_running_loop().create_task(holder.drain(budget=5))
        await asyncio.sleep(140)
        w.at_step = None
        w.ledger.login("new")
        w.pull.logs_in(row_of(w.store, grant).user_id, "new")
        await w.pull.tell(row_of(w.store, grant).user_id)
        refusal = iter([] if dead else [Fault(answer=answer(400, {"error": "invalid_grant"}))])
        w.network.faults = lambda _: next(refusal, Fault())
        if dead:
            w.ledger.revoke("new")
        with writing(w.store) as db:
            db.execute(update(GrantRow).values(due_at=w.now()))
        other = w.start(node="n2")
        await live([other], 30)
        assert [token for _, token in w.network.sent] == ["old", "new"]
        holder.resume()
        await live([other], 600)
        assert w.ledger.double_spends == []
        assert opened(w.store, w.vault, grant).startswith("old.")

    run(story())
