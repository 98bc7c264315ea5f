"""Reconcile, diff, and the log poll."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest

from tests.auth0.fakes import in_place
from tests.clock import T0
from tests.sync.search import Search
from tests.sync.world import ROSA, World, identity, iso
from worker.domain.errors import TransientError
from worker.store.comparing import Comparison
from worker.sync import Diff, Reconcile


@pytest.fixture
def world(sqlite_engine, vault) -> World:
    return World(sqlite_engine, vault)


# ------------------------------------------------------------------ reconcile


async def test_a_reconcile_finds_what_no_event_told(world):
    world.user(identity())
    await world.pull()
    world.user(identity("rt-b", user_id="2"), user_id="google-oauth2|2")
    await world.pull("google-oauth2|2")
    world.user(identity("rt-1", "at-1"), logins=2)
    world.no_user("google-oauth2|2")
    Search(world, [])
    missing: list[str] = []
    found = await reconcile(world, missing).run()
    assert (found.read, found.newer_upstream, found.orphaned_here) == (2, 1, 1)
    assert missing == ["google-oauth2|2"]  # whose deletion is looked into as if it had been told
    assert found.next_place is None
    assert world.tokens() == ("rt-1", "at-1")


async def test_a_reconcile_keeps_to_its_share_and_goes_on_later(world):
    for number in range(5):
        user_id = f"google-oauth2|{number}"
        world.user(identity(f"rt-{number}", user_id=str(number)), user_id=user_id)
        await world.pull(user_id)
    Search(world, [])
    began = world.clock.monotonic()
    first = await reconcile(world).run(seconds=1.5)
    assert first.next_place is not None
    assert first.read / (world.clock.monotonic() - began) <= 16 * 0.6 * 0.2 * 1.5
    second = await reconcile(world).run(after=first.next_place)
    assert first.read + second.read == 5


def reconcile(world: World, missing: list[str] | None = None) -> Reconcile:
    async def note(user_id: str) -> None:
        if missing is not None:
            missing.append(user_id)

    return Reconcile(
        world.api, world.puller, world.findings, on_missing=note, clock=world.clock,
        offload=in_place,
    )  # fmt: skip


async def test_who_logged_in_and_is_a_stranger_here_is_read(world):
    """Every event of theirs was lost, and no grant of ours points at them."""
    world.user(identity())
    await world.pull()
    world.clock.advance(86_400)
    world.user(identity("rt-2", user_id="2"), user_id="google-oauth2|2")
    at = world.clock.now() - timedelta(minutes=30)
    users = [("google-oauth2|2", iso(at)), ("auth0|db", iso(at)), (ROSA, iso(at))]
    search = Search(world, users, by="last_login")
    asked = len(world.auth0.paths)
    found = await reconcile(world).run(since=world.clock.now() - timedelta(hours=24))
    assert (found.read, found.missing_here) == (2 + 1, 1)  # he has a grant now: part of the second
    assert world.grant("2").user_id == "google-oauth2|2"
    assert search.queries[0] == f"last_login:[{iso(T0 - timedelta(hours=1))[:19]}.000Z TO *]"
    read = [path for path in world.auth0.paths[asked:] if "/users/" in path]
    assert not any("db" in path for path in read)

    again = await reconcile(world).run()
    assert (again.read, again.missing_here) == (2, 0)


async def test_a_stranger_may_hide_behind_a_password(world):
    """His own id is a database's, and an account with tokens is linked to him."""
    plain = {"provider": "auth0", "connection": "Username-Password-Authentication"}
    legacy = {"provider": "auth0", "connection": "legacy", "access_token": "of-a-login-script"}
    at = iso(world.clock.now() - timedelta(minutes=30))
    people = ("auth0|linked", "auth0|plain", "sms|plain", "auth0|legacy")
    search = Search(world, [(user_id, at) for user_id in people], by="last_login")
    search.accounts = {
        "auth0|linked": [plain, identity("rt-2", user_id="2")],
        "auth0|plain": [plain],
        "sms|plain": [{"provider": "sms", "connection": "sms"}],
        "auth0|legacy": [legacy],
    }
    for user_id in people:
        world.user(*search.accounts[user_id], user_id=user_id)
    round_ = reconcile(world)
    round_._databases = frozenset({"legacy"})
    asked = len(world.auth0.paths)
    found = await round_.run()
    paths = [path.partition("?")[0] for path in world.auth0.paths[asked:]]
    read = {path for path in paths if path.startswith("/users/")}
    assert read == {"/users/auth0%7Clinked", "/users/auth0%7Clegacy"}
    assert found.missing_here >= 1
    assert world.grant("2").user_id == "auth0|linked"
    assert len(search.queries) == 1, "no request more than before"


async def test_a_search_that_cannot_be_asked_costs_the_night_its_first_part_only(world):
    world.user(identity())
    await world.pull()
    world.auth0.on("/users", (503, {}))
    found = await reconcile(world).run()
    assert (found.read, found.failed, found.next_place) == (1, 0, None)


async def test_a_search_that_fails_for_a_moment_costs_the_night_nobody(world):
    """Who was to be listed then is looked for by no later night."""
    at = world.clock.now() - timedelta(minutes=30)
    listed = [(f"google-oauth2|{n:03}", iso(at + timedelta(seconds=n))) for n in range(150)]
    for user_id, _ in listed:
        account = user_id.partition("|")[2]
        world.user(identity(f"rt-{account}", user_id=account), user_id=user_id)
    search = Search(world, listed, by="last_login")
    whole, refusals = search.answer, iter([None, (503, {}), (429, {"x-ratelimit-reset": "0"})])

    def answer(request):
        told = next(refusals, None) if request.url.path == "/api/v2/users" else None
        return httpx.Response(told[0], headers=told[1]) if told else whole(request)

    search.answer = answer
    found = await reconcile(world).run(seconds=10_000)
    assert found.missing_here == 150


async def test_a_night_in_which_nobody_can_be_read_is_not_counted_down_to_its_end(world):
    for number in range(20):
        user_id = f"google-oauth2|{number:02}"
        world.user(identity(f"rt-{number}", user_id=str(number)), user_id=user_id)
        await world.pull(user_id)
        world.auth0.on(f"/users/google-oauth2%7C{number:02}", (503, {}))
    Search(world, [])
    with pytest.raises(TransientError, match="nobody"):
        await reconcile(world).run()


async def test_a_diff_counts_as_the_reconcile_does_and_changes_nothing(world):
    for number in range(3):
        world.user(identity(f"rt-{number}", user_id=str(number)), user_id=f"google-oauth2|{number}")
        await world.pull(f"google-oauth2|{number}")
    world.user(identity("rt-new", "at-new", user_id="1"), logins=2)
    world.user(
        identity("rt-2", user_id="2"), identity("rt-x", "at-x", user_id="x"),
        user_id="google-oauth2|2",
    )  # fmt: skip
    world.no_user("google-oauth2|0")
    world.auth0.on("/users", (200, []))
    before = [world.grant(str(number)) for number in range(3)]
    compare = Comparison(world.engine, world.vault).compare
    diff = Diff(
        world.api, world.puller, compare, world.findings, clock=world.clock, offload=in_place
    )
    for sample in (10, None):
        found = await diff.run(sample)
        assert found.read == 3
        assert {one.connection for one in found.differences} == {None, "google-oauth2"}
    assert [world.grant(str(number)) for number in range(3)] == before
    told = await reconcile(world).run()
    assert found.counts == {
        "missing_here": told.missing_here,
        "newer_upstream": told.newer_upstream,
        "orphaned_here": told.orphaned_here,
    }
    assert set(found.counts.values()) == {1}
    assert (await diff.run(10)).counts == {"orphaned_here": 1}
