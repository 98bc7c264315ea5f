"""A storm after an outage of ours: shuffled, a tenth repeated, a hundredth forged (T9).

`EVERGRANT_DRILL=long`: 100,000 events after an hour without us; else the same in small.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette

from tests.events.payloads import array, log, login
from tests.events.world import World, offload
from tests.telling import Tell
from worker.actions import Action
from worker.domain.event import Trigger
from worker.domain.secret import Secret
from worker.ingress import TenantDoors, routes, verbatim

LONG = os.environ.get("EVERGRANT_DRILL") == "long"
EVENTS, USERS, BATCH = (100_000, 2_000, 100) if LONG else (3_000, 100, 50)
OUTAGE = 3600  # seconds of the world's clock
HUSH = "made-up"
FORM = pytest.mark.drill if LONG else pytest.mark.timeout(120)

Batch = tuple[str, list[dict[str, Any]]]  # the header shown, the records


def storm(chance: random.Random) -> list[Batch]:
    """What the tenant has to tell, in the order in which it is sent."""
    wanted = [login(str(n), user_id=f"auth0|{n % USERS}") for n in range(EVENTS)]
    repeated = chance.sample(wanted, EVENTS // 10)
    lies = [log("sdu", f"lie-{n}", user_id=f"auth0|{n % USERS}") for n in range(EVENTS // 100)]
    told = [*wanted, *repeated, *lies]
    chance.shuffle(told)
    batches = [(HUSH, told[n : n + BATCH]) for n in range(0, len(told), BATCH)]
    forged = [login(f"forged-{n}", user_id="auth0|forged") for n in range(EVENTS // 100)]
    batches += [("guessed", forged[n : n + BATCH]) for n in range(0, len(forged), BATCH)]
    chance.shuffle(batches)
    return batches


class Sender:
    """Auth0's side: what is not answered 2xx is sent again, a 401 it takes for final."""

    def __init__(self, world: World) -> None:
        doors = {"acme": TenantDoors(logs=(verbatim(Secret(HUSH)),))}
        app = Starlette(routes=routes(intake=world.intake, tenants=doors, offload=offload))
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")
        self.statuses: Counter[int] = Counter()

    async def send(self, batch: Batch) -> bool:
        header, records = batch
        response = await self.http.post(
            "/hooks/auth0/acme/logs", content=array(*records), headers={"authorization": header}
        )
        self.statuses[response.status_code] += 1
        return response.status_code in (202, 401)


async def outage(world: World, sender: Sender, queued: list[Batch]) -> list[Batch]:
    """An hour in which nothing durable is to be had; returns what the sender still has."""
    spool, world.intake._spool, world.store.away = world.intake._spool, None, True
    until = world.clock.now().timestamp() + OUTAGE
    while world.clock.now().timestamp() < until:
        assert not await sender.send((HUSH, queued[0][1]))  # never 2xx for what is not kept
        world.clock.advance(60)
    world.intake._spool, world.store.away = spool, False
    return queued


async def bursts(world: World, sender: Sender, batches: list[Batch]) -> None:
    """Everything at once, while the store falters, and two workers are at it already."""
    burst = len(batches) // 10
    for index, batch in enumerate(batches):
        world.store.away = index % 7 == 3
        world.clock.advance(3)
        assert await sender.send(batch)
        if index % burst == burst - 1:
            world.store.away = False
            await asyncio.gather(world.work(1), world.work(1))
    world.store.away = False


@FORM
async def test_nothing_is_lost_and_nothing_done_twice(
    engine: Engine, tmp_path: Path, tell: Tell
) -> None:
    world = World(engine, tmp_path)
    effects: Counter[str] = Counter()
    count = Action(
        name="count", trigger=Trigger.LOGIN, run=lambda event, api: effects.update([event.id])
    )
    world.bind(count)
    sender = Sender(world)
    queued = await outage(world, sender, storm(random.Random(20261120)))
    await bursts(world, sender, queued)
    world.clock.advance(60)
    while world.spool.waiting():
        world.intake.drain_spool()
    while world.inbox.oldest_age(now=world.clock.now()) is not None:
        await asyncio.gather(world.work(), world.work())  # two workers at once
        world.clock.advance(20)
    reads = len(world.pull.users)
    lost, doubled = EVENTS - len(effects), sum(effects.values()) - len(effects)
    tell(f"{EVENTS} events, {dict(sender.statuses)}, {reads} reads, {lost=}, {doubled=}")
    assert (lost, doubled) == (0, 0)
    assert sender.statuses.keys() == {202, 401, 503}
    assert not [event for event in effects if event.startswith("forged")]
    assert world.forgotten == []  # no lie deletes anybody
    assert {user for _, user in world.pull.users} == {f"auth0|{n}" for n in range(USERS)}
    assert world.inbox.counts() == {"done": EVENTS + EVENTS // 100}
