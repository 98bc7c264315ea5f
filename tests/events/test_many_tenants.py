"""Many tenants in one deployment: what befalls one is not felt by another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.events.payloads import array, login
from tests.events.world import World
from worker.domain.errors import TransientError

STUCK = [f"stuck-{n}" for n in range(4)]


async def stop(work: asyncio.Task[dict[str, int]]) -> None:
    work.cancel()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.gather(work, return_exceptions=True)


@pytest.mark.parametrize("trouble", ["hangs", "refuses", "floods"])
async def test_a_quiet_tenants_login_is_served_at_once(
    engine: Engine, tmp_path: Path, trouble: str
) -> None:
    """Four tenants are in trouble, each with five hundred users' events in the inbox before."""
    world = World(engine, tmp_path, tenants=[*STUCK, "quiet"])
    for tenant in STUCK:
        if trouble == "hangs":
            world.pull.hangs.add(tenant)
        elif trouble == "refuses":
            world.pull.broken[tenant] = TransientError("429", code="too_many_requests")
        crowd = (login(str(n), user_id=f"auth0|{n}", tenant_name=tenant) for n in range(500))
        world.deliver(array(*crowd), tenant=tenant)
    work = asyncio.create_task(world.work(seconds=3600))
    while not world.pull.users:
        await asyncio.sleep(0.005)

    began = time.monotonic()
    world.deliver(array(login("1", tenant_name="quiet", user_id="auth0|rosa")), tenant="quiet")
    async with asyncio.timeout(10):
        while ("quiet", "auth0|rosa") not in world.pull.users:
            await asyncio.sleep(0.005)
    took = time.monotonic() - began
    others = len(world.pull.users)
    await stop(work)
    assert took < 5
    assert others < 4 * 500  # it did not wait until they were done
