"""A refused grant's copy is read where its account is now, not where it was once (M9, I8)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sync.search import Search
from tests.sync.world import World, identity
from worker.domain.errors import TransientError
from worker.domain.grant import GrantKey, GrantPart

ROSA = "auth0|rosa"
PRIMARY = "auth0|primary"
KEY = GrantKey(tenant="acme", connection="google-oauth2", identity_user_id="1", part=GrantPart.USER)


@pytest.fixture
async def world(sqlite_engine: Any, vault: Any) -> World:
    made = World(sqlite_engine, vault)
    made.user(identity(), identity(user_id="9"), user_id=ROSA)
    await made.pull(ROSA)
    return made


def search(world: World, *users: str, **accounts: list[dict[str, Any]]) -> None:
    Search(world, [(user, "2026") for user in users]).accounts = {PRIMARY: [identity()], **accounts}


@pytest.mark.parametrize("lives", [True, False])
async def test_one_that_went_to_another_user_is_read_there(world: World, lives: bool) -> None:
    """Linked away, its user is gone; moved, he lives on without it."""
    if lives:
        world.user(identity(user_id="9"), user_id=ROSA)
    else:
        world.no_user(ROSA)
    world.user(identity("rt-1", "at-1"), user_id=PRIMARY, logins=2)
    search(world, PRIMARY)
    world.no_user("google-oauth2|1")  # of whom it would be by itself
    await world.puller.account(KEY, ROSA)
    assert world.grant().user_id == PRIMARY
    assert world.tokens()[0] == "rt-1"


async def test_one_that_the_search_still_lists_at_its_old_user_was_not_seen(world: World) -> None:
    world.user(identity(user_id="9"), user_id=PRIMARY)
    search(world, PRIMARY)
    with pytest.raises(TransientError):
        await world.puller.account(KEY, PRIMARY)


async def test_one_that_nobody_has_is_not_looked_for_for_ever(world: World) -> None:
    world.no_user(ROSA)
    search(world)
    await world.puller.account(KEY, ROSA)


async def test_one_at_its_user_costs_one_read(world: World) -> None:
    before = len(world.auth0.paths)
    await world.puller.account(KEY, ROSA)
    assert len(world.auth0.paths) == before + 1
