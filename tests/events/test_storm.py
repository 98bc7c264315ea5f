"""A storm after an outage of ours: shuffled, a tenth repeated, a hundredth forged (T9, short)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Engine
from starlette.applications import Starlette

from tests.events.payloads import array, log, login
from tests.events.world import World, offload
from worker.actions import Action
from worker.domain.event import Trigger
from worker.domain.secret import Secret
from worker.ingress import TenantDoors, routes, verbatim

EVENTS, USERS, BATCH = 3_000, 100, 50
HUSH = "made-up"


def storm(chance: random.Random) -> list[tuple[str, list[dict[str, Any]]]]:
    """(the header shown, a batch), in the order they arrive."""
    wanted = [login(str(n), user_id=f"auth0|{n % USERS}") for n in range(EVENTS)]
    repeated = chance.sample(wanted, EVENTS // 10)
    lies = [log("sdu", f"lie-{n}", user_id=f"auth0|{n % USERS}") for n in range(EVENTS // 100)]
    told = [*wanted, *repeated, *lies]
    chance.shuffle(told)
    batches = [(HUSH, told[n : n + BATCH]) for n in range(0, len(told), BATCH)]
    forged = [login(f"forged-{n}", user_id="auth0|forged") for n in range(EVENTS // 100)]
    batches += [("guessed", forged)]
    chance.shuffle(batches)
    return batches


async def test_nothing_is_lost_and_nothing_done_twice(engine: Engine, tmp_path: Path) -> None:
    chance = random.Random(20261120)
    world = World(engine, tmp_path)
    effects: Counter[str] = Counter()
    count = Action(
        name="count", trigger=Trigger.LOGIN, run=lambda event, api: effects.update([event.id])
    )
    world.bind(count)
    doors = {"acme": TenantDoors(logs=(verbatim(Secret(HUSH)),))}
    app = Starlette(routes=routes(intake=world.intake, tenants=doors, offload=offload))
    statuses: Counter[int] = Counter()

    async def sender(batches: list[tuple[str, list[dict[str, Any]]]]) -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            for index, (header, batch) in enumerate(batches):
                world.store.away = index % 7 == 3  # our outages, in the midst of it
                world.clock.advance(3)
                response = await http.post(
                    "/hooks/auth0/acme/logs",
                    content=array(*batch),
                    headers={"authorization": header},
                )
                statuses[response.status_code] += 1
        world.store.away = False

    await sender(storm(chance))
    assert set(statuses) == {202, 401}
    world.clock.advance(60)
    while world.spool.waiting():
        world.intake.drain_spool()
    while world.inbox.oldest_age(now=world.clock.now()) is not None:
        await asyncio.gather(world.work(), world.work())  # two workers at once
        world.clock.advance(20)
    assert len(effects) == EVENTS  # 0 lost
    assert max(effects.values()) == 1  # 0 doubled
    assert not [event for event in effects if event.startswith("forged")]
    assert world.forgotten == []  # no lie deletes anybody
    assert {user for _, user in world.pull.users} == {f"auth0|{n}" for n in range(USERS)}
    assert world.inbox.counts() == {"done": EVENTS + EVENTS // 100}
