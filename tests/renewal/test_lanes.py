"""A lane starts as many runners as there is work and room for, and not one more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from tests.clock import FakeClock
from worker.domain.exchange import Limits, Rotation
from worker.domain.rotation import rules_for
from worker.renewal.lanes import Lane
from worker.renewal.prepared import Prepared

RULES = rules_for(Rotation.F, grace_seconds=0.0, rotated_before=True)


class Attempt(SimpleNamespace):
    """All that a lane looks at of a prepared claim."""

    send_before = 60.0


def lane(work, concurrency=100):
    limits = Limits(concurrency=concurrency, per_second=1_000_000.0)
    made = Lane("idp.example", limits, clock=FakeClock(), work=work, room_again=lambda: None)
    for _ in range(concurrency):
        made.pace.answered()  # past the slow start
    return made


async def test_each_attempt_gets_one_runner_however_fast_they_come():
    done: list[int] = []

    async def work(attempt, _lane):
        await asyncio.sleep(0)
        done.append(attempt.number)

    it = lane(work)
    for number in range(20):
        it.submit(Attempt(number=number))
    assert len(it.tasks()) == it.running == it.load == 20
    await asyncio.gather(*it.tasks())
    assert sorted(done) == list(range(20))
    assert it.running == it.load == 0


async def test_a_runner_takes_the_next_attempt_itself_instead_of_starting_another():
    runners: list[int] = []

    async def work(_attempt, its):
        runners.append(len(its.tasks()))
        await asyncio.sleep(0)

    it = lane(work, concurrency=2)
    for number in range(50):
        it.submit(Attempt(number=number))
    assert it.load == 50
    while it.load:
        await asyncio.sleep(0)
    assert max(runners) == 2
    assert len(runners) == 50


async def test_runners_come_back_when_the_host_bears_more():
    most = 0

    async def work(_attempt, its):
        nonlocal most
        most = max(most, its.running)
        await asyncio.sleep(0)
        its.pace.answered()

    it = lane(work, concurrency=64)
    it.pace.trouble(0.0)
    it.pace.trouble(5.0)
    for number in range(2000):
        it.submit(Attempt(number=number))
    assert it.running == 16
    while it.load:
        await asyncio.sleep(0)
    assert most > 32


@given(st.floats(0, 1e9))
def test_a_lease_as_long_as_its_class_asks_for_is_never_lengthened(began):
    held = {"claim": None, "connection": None, "provider": None, "rules": RULES, "began": began}
    assert not Prepared(**held, deadline=began + RULES.lease).lease_is_short
    assert Prepared(**held, deadline=began + RULES.lease - 1.0).lease_is_short
