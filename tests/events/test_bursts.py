"""A burst about one user is one or two reads, though two worker processes work it off."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from tests.clock import FakeClock
from tests.events.payloads import ROSA, array, login
from tests.events.world import World
from worker.store.pulls import PullRepository

BURST = 1000


async def test_a_thousand_events_for_one_user_are_two_reads_at_most(
    engine: Engine, tmp_path: Path
) -> None:
    one, two = World(engine, tmp_path / "1"), World(engine, tmp_path / "2")
    two.clock = one.clock  # two processes of one moment
    two.processor._clock = two.intake._clock = one.clock
    for at in range(0, BURST, 50):
        one.deliver(array(*(login(str(n)) for n in range(at, at + 50))))
        await asyncio.gather(one.work(), two.work())
    assert len(one.pull.users) + len(two.pull.users) == 1
    one.clock.advance(3)
    await asyncio.gather(one.work(), two.work())
    assert [*one.pull.users, *two.pull.users] == [("acme", ROSA)] * 2
    assert one.inbox.counts() == {"done": BURST}


def test_one_process_of_many_pulls_in_each_gap(engine: Engine) -> None:
    pulls, clock, gap = PullRepository(engine), FakeClock(), timedelta(seconds=2)

    def ask() -> timedelta:
        return pulls.reserve("acme", "user:rosa", gap=gap, now=clock.now())

    assert ask() == timedelta(0)
    clock.advance(0.5)
    assert ask() == timedelta(seconds=1.5)
    begun = pulls.begin("acme", "user:rosa", now=clock.now())  # the fence has its own count
    assert (begun.fence, begun.missing) == (1, 0)
    clock.advance(1.5)
    assert ask() == timedelta(0)


def test_a_reservation_from_the_future_binds_nobody(engine: Engine) -> None:
    pulls, clock, gap = PullRepository(engine), FakeClock(), timedelta(seconds=2)
    pulls.reserve("acme", "user:rosa", gap=gap, now=clock.now() + timedelta(hours=1))
    assert pulls.reserve("acme", "user:rosa", gap=gap, now=clock.now()) == timedelta(0)


def test_what_is_due_about_the_same_user_is_claimed_with_the_oldest_of_it(
    engine: Engine, tmp_path: Path
) -> None:
    """After an outage, with fifty events of each user waiting, one look serves all fifty."""
    world = World(engine, tmp_path)
    for at in range(50):
        world.deliver(array(*(login(f"{at}-{n}", user_id=f"auth0|{n}") for n in range(20))))
        world.clock.advance(1)
    lease = timedelta(seconds=60)
    first = world.inbox.claim(now=world.clock.now(), lease_for=lease, limit=10)
    users = {row.event.user_id for row in first}
    assert (len(users), len(first)) == (10, 100)  # ten times the limit at most
    second = world.inbox.claim(now=world.clock.now(), lease_for=lease, limit=200)
    assert len(second) == 900
