"""A customer's action that misbehaves stops nothing but itself."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.events.payloads import ROSA, array, login
from tests.events.world import World
from worker.actions import Action
from worker.domain.event import Trigger


@pytest.fixture
def world(sqlite_engine: Engine, tmp_path: Path) -> World:
    return World(sqlite_engine, tmp_path)


@pytest.fixture
def held() -> Any:
    """What hangs in these tests, hangs until they end."""
    over = threading.Event()
    yield over
    over.set()


def own(run: Callable[..., Any], name: str = "mine", **more: Any) -> Action:
    return Action(name=name, trigger=Trigger.LOGIN, run=run, **{"timeout": 5, **more})


async def exits(event: Any, api: Any) -> None:
    sys.exit(3)


async def interrupts(event: Any, api: Any) -> None:
    raise KeyboardInterrupt


async def cancels(event: Any, api: Any) -> None:
    raise asyncio.CancelledError


async def cancels_itself(event: Any, api: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def takes_another_view_of_json(event: Any, api: Any) -> None:
    api.memory["since"] = object()
    raise RuntimeError


async def remembers_too_much(event: Any, api: Any) -> None:
    api.memory["all"] = "x" * 100_000
    raise RuntimeError


def plainly_exits(event: Any, api: Any) -> None:
    sys.exit(3)


def forgets_to_be_async(event: Any, api: Any) -> Any:
    return asyncio.sleep(0)


NASTY = [
    exits, interrupts, cancels, cancels_itself, takes_another_view_of_json, remembers_too_much,
    plainly_exits, forgets_to_be_async,
]  # fmt: skip


@pytest.mark.parametrize("nasty", NASTY, ids=lambda handler: handler.__name__)
@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited")
async def test_whatever_it_raises_the_built_in_ones_and_its_neighbours_run(
    world: World, nasty: Callable[..., Any]
) -> None:
    ran: list[str] = []

    async def behind(event: Any, api: Any) -> None:
        ran.append("behind")

    world.bind(own(nasty, "nasty", position=1), own(behind, "behind"))
    world.deliver(array(login("1")))
    await world.work()
    assert (world.pull.users, ran) == ([("acme", ROSA)], ["behind"])
    [stuck] = world.stuck.newest()
    assert stuck.error is not None
    assert stuck.error.startswith("nasty: ")
    await world.work_for(600, step=20)
    assert world.inbox.counts() == {"failed": 1}  # tried five times, then listed


async def test_one_that_blocks_its_loop_holds_up_neither_ours_nor_the_next(
    world: World, held: threading.Event
) -> None:
    """A `time.sleep` in an `async def`: a renewal must not wait for it, and nor must others."""
    ran: list[str] = []

    async def blocks(event: Any, api: Any) -> None:
        if event.id == "1":
            held.wait(60)

    async def other(event: Any, api: Any) -> None:
        ran.append(event.id)

    world.bind(own(blocks, "blocks", position=1, timeout=0.1), own(other, "other", timeout=3))
    beats: list[float] = []
    beating = asyncio.create_task(beat(beats))
    world.deliver(array(login("1")))
    await world.work()
    await asyncio.sleep(1.2)  # until the loop that does not answer is left behind
    world.deliver(array(login("2", user_id="auth0|2")))
    await world.work()
    assert "2" in ran
    assert ("acme", "auth0|2") in world.pull.users
    beating.cancel()
    assert max(beats) < 3  # it would be 60 seconds; a busy machine needs some


@pytest.mark.parametrize("hanging", [1, 2], ids=["one action", "two actions"])
async def test_actions_that_hang_leave_room_for_the_built_in_ones(
    world: World, hanging: int
) -> None:
    """Sixty people log in: their tokens are read, however long the customer's code takes."""

    async def hangs(event: Any, api: Any) -> None:
        await asyncio.Event().wait()

    world.bind(*(own(hangs, f"hangs {n}", timeout=3600) for n in range(hanging)))
    world.deliver(array(*(login(f"{n}", user_id=f"auth0|{n}") for n in range(60))))
    working = asyncio.create_task(world.work(seconds=3600))
    async with asyncio.timeout(20):
        while len(world.pull.users) < 60:
            await asyncio.sleep(0.01)
    working.cancel()
    assert not [stuck for stuck in world.stuck.newest() if stuck.attempts]  # waiting is no failure


async def test_an_action_that_hangs_leaves_turns_to_another(world: World) -> None:
    ran: set[str] = set()

    async def hangs(event: Any, api: Any) -> None:
        await asyncio.Event().wait()

    async def quick(event: Any, api: Any) -> None:
        ran.add(event.id)

    world.bind(own(hangs, "hangs", position=1, timeout=0.5), own(quick, "quick"))
    world.deliver(array(*(login(f"{n}", user_id=f"auth0|{n}") for n in range(60))))
    await world.work(seconds=3600)
    assert len(ran) == 60


async def test_quick_actions_are_waited_for_and_all_run_at_once(world: World) -> None:
    ran: list[str] = []

    async def quick(event: Any, api: Any) -> None:
        await asyncio.sleep(0.02)
        ran.append(event.id)

    world.bind(own(quick))
    world.deliver(array(*(login(f"{n}", user_id=f"auth0|{n}") for n in range(60))))
    await world.work()
    assert len(ran) == 60
    assert world.inbox.counts() == {"done": 60}


async def beat(beats: list[float]) -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.02)
        beats.append(time.monotonic() - began)


async def test_plain_functions_that_never_end_leave_room_for_others(
    world: World, held: threading.Event
) -> None:
    ran: list[str] = []

    def hangs(event: Any, api: Any) -> None:
        held.wait(60)

    world.bind(
        own(hangs, "hangs", position=1, timeout=0.05),
        own(lambda event, api: ran.append(event.id), "other"),
    )
    world.deliver(array(*(login(str(n), user_id=f"auth0|{n}") for n in range(20))))
    await world.work()
    assert len(ran) == 20
    assert len(world.pull.users) == 20


async def test_a_plain_function_asks_without_await(world: World) -> None:
    told: list[bool] = []

    def asks(event: Any, api: Any) -> None:
        told.append(api.pull_user("auth0|2"))
        api.notify("seen_it", reason="because")
        api.memory["n"] = 1

    world.bind(own(asks))
    world.deliver(array(login("1")))
    assert await world.work() == {"done": 1}
    assert told == [True]
    assert ("acme", "auth0|2") in world.pull.users


async def test_an_action_that_asks_to_be_run_again_finds_what_it_remembered(world: World) -> None:
    seen: list[Any] = []

    async def patient(event: Any, api: Any) -> None:
        seen.append(api.memory.get("tries", 0))
        api.memory["tries"] = len(seen)
        if len(seen) < 3:
            api.again("not yet", after=2)

    world.bind(own(patient))
    world.deliver(array(login("1")))
    await world.work_for(10)
    assert seen == [0, 1, 2]
    assert world.inbox.counts() == {"done": 1}
