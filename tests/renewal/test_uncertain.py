"""No answer: who sends the same refresh token again, and when (protocol 9, C5 to C8)."""

from __future__ import annotations

import asyncio

import pytest

from tests.planted import candidates_of, opened, row_of
from tests.simulation.provider import answer
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault
from worker.domain.exchange import Rotation
from worker.domain.grant import GrantState


async def live(processes, seconds, tick=2):
    for _ in range(int(seconds / tick)):
        for process in processes:
            if not process.dead:
                await process.engine.sweep(budget_seconds=0.1)
                await process.drain(budget=0.1)
        await asyncio.sleep(tick)


def first_then_fine(first):
    faults = iter([first])
    return lambda _: next(faults, Fault())


ANSWER_LOST = Fault(cut_after=0.08)  # the provider acts after 0.05 s
REQUEST_LOST = Fault(lose_request=True, cut_after=0.08)


@pytest.mark.parametrize("rotation", [Rotation.N, Rotation.M, Rotation.G])
@pytest.mark.parametrize("fault", [ANSWER_LOST, REQUEST_LOST], ids=["answer", "request"])
@pytest.mark.parametrize("siblings", ["same", "new", "newest"])
def test_where_the_old_token_still_works_it_is_sent_again_at_once(world, rotation, fault, siblings):
    async def story():
        w = world(rotation, grace=30.0, siblings=siblings)
        grant = w.plant()
        w.network.faults = first_then_fine(fault)
        assert await w.start().drain() == {"renewed": 1}
        (first, _), (second, _) = w.network.sent
        assert second - first < 1.0
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        assert w.ledger.double_spends == []

    run(story())


@pytest.mark.parametrize("grace", [30.0, 60.0, 600.0, 86_400.0])
@pytest.mark.parametrize("trouble", ["reset", 502, 503, 429])
def test_an_outage_inside_the_grace_costs_no_grant(world, grace, trouble):
    """C7: the first request rotated, and then the provider is away for a moment."""

    async def story():
        w = world(Rotation.G, grace=grace)
        grant = w.plant()
        loop, lost = asyncio.get_running_loop(), iter([ANSWER_LOST])
        away = REQUEST_LOST if trouble == "reset" else Fault(answer=answer(trouble, b"<html>"))
        over = loop.time() + 5
        w.network.faults = lambda _: next(lost, away) if loop.time() < over else Fault()
        await live([w.start(), w.start()], 1500)
        assert row_of(w.store, grant).state == GrantState.ACTIVE
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        assert w.ledger.double_spends == []

    run(story())


@pytest.mark.parametrize("grace", [30.0, 600.0])
def test_an_outage_as_long_as_the_grace_is_asked_into_now_and_then(world, grace):
    """I12: until it is over, and once more after that."""

    async def story():
        w = world(Rotation.G, grace=grace)
        w.plant()
        w.network.faults = lambda _: REQUEST_LOST if w.network.sent else ANSWER_LOST
        await live([w.start()], 3600)
        assert len(w.network.sent) <= 8

    run(story())


@pytest.mark.parametrize("rotation", [Rotation.S, Rotation.F])
def test_a_strict_provider_is_given_half_a_minute_and_then_asked_once_more(world, rotation):
    """C6: the request never arrived, so the token was not spent."""

    async def story():
        w = world(rotation)
        grant = w.plant()
        w.network.faults = first_then_fine(REQUEST_LOST)
        assert await w.start().drain() == {"renewed": 1}
        (first, _), (second, _) = w.network.sent
        assert second - first >= 29.0
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest

    run(story())


@pytest.mark.parametrize("seconds", [14, 60, 118])
def test_a_strict_provider_that_is_slow_is_waited_for(world, seconds):
    """The largest gain of all: patience saves more grants than any retry."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant()
        w.network.faults = lambda _: Fault(back=float(seconds))
        assert await w.start().drain() == {"renewed": 1}
        assert len(w.network.sent) == 1
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest

    run(story())


def test_a_strict_token_whose_answer_was_lost_is_nobodys_to_save_and_told_so(world):
    """C7 with F: the successor exists nowhere with us; one more try, then the slow verdict."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant()
        w.network.faults = first_then_fine(ANSWER_LOST)
        await live([w.start()], 300, tick=5)
        assert row_of(w.store, grant).state == GrantState.NEEDS_REAUTH
        assert len(w.network.sent) == 3

    run(story())


def test_a_gateways_error_is_as_good_as_no_answer(world):
    """C7: 502 and 504 say that the provider may have acted."""

    async def story():
        w = world(Rotation.G, grace=30.0)
        grant = w.plant()
        w.network.faults = first_then_fine(Fault(mangle=lambda _: answer(502, b"bad gateway")))
        assert await w.start().drain() == {"renewed": 1}
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest

    run(story())


def test_an_attempt_that_gave_up_leaves_its_claim_to_a_takeover(world):
    async def story():
        w = world(Rotation.N)
        grant = w.plant()
        faults = iter([REQUEST_LOST] * 2)
        w.network.faults = lambda _: next(faults, Fault())
        one, other = w.start(node="n1"), w.start(node="n2")
        await one.drain(budget=3)
        row = row_of(w.store, grant)
        assert (row.uncertain, row.failures, row.last_error) == (True, 2, "reset")
        await live([other], 200, tick=5)
        assert row_of(w.store, grant).generation > 0

    run(story())


def test_after_the_lease_no_byte_leaves(world):
    """I6: the process stood still between its claim and the write (SIGSTOP, a long pause)."""

    async def story():
        w = world(Rotation.F)
        w.plant()
        process = w.start()
        w.network.faults = lambda _: Fault(connect=9.0)
        await process.drain(budget=10)
        assert w.network.sent == []

    run(story())


def test_a_paused_process_that_wakes_late_cannot_spend_what_another_took_over(world):
    """C5 with F: the gate, and the hold of who comes after."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant()
        slow, other = w.start(node="n1"), w.start(node="n2")
        w.at_step = lambda p, name: p is slow and name == "connect" and p.pause()
        asleep = asyncio.create_task(slow.drain(budget=2))
        await live([other], 1000, tick=10)
        assert len(w.network.sent) == 1
        w.at_step = None
        slow.resume()
        await asleep
        await live([slow, other], 60)
        assert len(w.network.sent) == 1
        assert w.ledger.double_spends == []
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest

    run(story())


def test_an_echo_does_not_bury_the_successor_that_came_before_it(world):
    """C13 and C22: the first attempt's answer comes late and is a candidate; the second is answered
    with the very token sent, and so has proved nothing about it."""

    async def story():
        w = world(Rotation.G, grace=600.0)
        grant = w.plant()
        slow, other = w.start(node="n1"), w.start(node="n2")
        w.at_step = lambda p, name: p in (slow, other) and name == "answer" and p.pause()
        asleep = asyncio.create_task(slow.drain(budget=1))
        await asyncio.sleep(40)
        body = {"access_token": "a1", "refresh_token": "r0", "expires_in": 3600}
        w.network.faults = lambda _: Fault(answer=answer(200, body))
        echoed = asyncio.create_task(live([other], 20))
        await asyncio.sleep(20)
        w.at_step = None
        slow.resume()
        await asleep
        await asyncio.sleep(1)
        assert [one.why for one in candidates_of(w.store, grant)] == ["lost_fence"]
        other.resume()
        await echoed
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest

    run(story())


def test_an_echo_is_one_too_for_who_claims_it_after_a_takeover_that_sent_nothing(world):
    """C22: he never saw the attempt that had sent it first, but the grant's row remembers."""

    async def story():
        w = world(Rotation.G, grace=600.0)
        grant = w.plant()
        doomed, other = w.start(node="n1"), w.start(node="n2")
        w.at_step = lambda p, name: p is doomed and name == "answer" and p.kill()
        asyncio.get_running_loop().create_task(doomed.drain(budget=1))
        body = {"access_token": "a1", "refresh_token": "r0", "expires_in": 3600}
        faults = iter([Fault(), Fault(refuse=True)])
        w.network.faults = lambda _: next(faults, Fault(answer=answer(200, body)))
        await live([other], 90)
        row = row_of(w.store, grant)
        assert [token for _, token in w.network.sent] == ["r0", "r0"]
        assert (row.state, row.reason) == ("suspect", "same_refresh_token")

    run(story())


def test_a_lost_fence_still_hands_in_what_it_got(world):
    """C13 with G, newest sibling only: the late answer may be the one that is alive."""

    async def story():
        w = world(Rotation.G, grace=600.0, siblings="new")
        grant = w.plant()
        slow, other = w.start(node="n1"), w.start(node="n2")
        w.at_step = lambda p, name: p is slow and name == "answer" and p.pause()
        asleep = asyncio.create_task(slow.drain(budget=1))
        await live([other], 120)
        current = opened(w.store, w.vault, grant)
        w.at_step = None
        slow.resume()
        await asleep
        await asyncio.sleep(1)
        (kept,) = candidates_of(w.store, grant)
        assert kept.why == "lost_fence"
        assert opened(w.store, w.vault, grant) == current

    run(story())
