"""A whole tenant, or a list of its users, pulled once: stopped, killed, and gone on with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from tests.clock import T0
from tests.sync.search import Search
from tests.sync.world import ROSA, World, backfill_of, identity
from worker.auth0 import Priority
from worker.domain.errors import ConfigurationError, PermanentError, TransientError
from worker.store.backfills import BackfillRepository
from worker.store.engine import reading
from worker.store.tables import TenantRow
from worker.sync import Progress


@pytest.fixture
def world(sqlite_engine: Any, vault: Any) -> World:
    return World(sqlite_engine, vault)


def store_of(world: World) -> dict[str, Any]:
    with reading(world.engine) as connection:
        found: dict[str, Any] = connection.execute(select(TenantRow.backfill)).scalar_one()
    return found


class Reader:
    """A puller that only notes whom it was asked for, and fails as told."""

    def __init__(self, fails: Callable[[str], bool] = lambda _: False) -> None:
        self.users: list[str] = []
        self.fails = fails

    async def user(self, tenant: str, user_id: str, *, priority: Priority) -> None:
        assert priority is Priority.BACKFILL
        if self.fails(user_id):
            raise TransientError("store: OperationalError", code="store_away")
        self.users.append(user_id)


class StoppedError(Exception):
    """What ^C or a kill is to a run."""


def stop_after(count: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.passed >= count:
            raise StoppedError

    return report


def crowd(count: int, *, at_once: int = 3) -> list[tuple[str, str]]:
    """Users in the order of their creation, some in the very same moment."""
    moments = (T0 + timedelta(seconds=number // at_once) for number in range(count))
    return [(f"auth0|{n}", at.strftime("%FT%T.000Z")) for n, at in enumerate(moments)]


def ids_of(count: int) -> list[str]:
    return [user_id for user_id, _ in crowd(count)]


async def test_every_user_is_found_although_a_search_shows_a_thousand(world: World) -> None:
    users = crowd(2_345)
    Search(world, users)
    reader, seen = Reader(), []
    progress = await backfill_of(world, reader).users(report=lambda p: seen.append(p.done))
    assert progress.done == 2_345
    assert sorted(reader.users) == sorted(user_id for user_id, _ in users)
    assert seen == sorted(seen)
    assert len(seen) == 2_345


@pytest.mark.parametrize("listed", [False, True], ids=["by search", "by a list"])
async def test_a_backfill_that_was_stopped_goes_on_where_it_was(world: World, listed: bool) -> None:
    Search(world, crowd(450))
    ids = ids_of(450) if listed else None
    reader = Reader()
    with pytest.raises(StoppedError):
        await backfill_of(world, reader).users(ids, report=stop_after(330))
    first = len(reader.users)
    progress = await backfill_of(world, reader).users(ids)
    before = 300 if listed else 298  # of one moment are three, and a page begins with the last
    assert (progress.done, progress.total, progress.before) == (450, 450, before)
    assert len(set(reader.users)) == 450
    assert len(reader.users) - first <= 152  # what was saved is not read again

    again = await backfill_of(world, Reader()).users(ids)
    assert again.before == 0  # it was complete: the next one begins at the beginning


async def test_another_list_is_another_backfill(world: World) -> None:
    with pytest.raises(StoppedError):
        await backfill_of(world, Reader()).users(ids_of(250), report=stop_after(210))
    reader = Reader()
    await backfill_of(world, reader).users(ids_of(240))
    assert reader.users == ids_of(240)
    progress = await backfill_of(world, Reader()).users(ids_of(250))
    assert progress.before == 200  # and the first is still there


async def test_it_begins_anew_when_asked_to(world: World) -> None:
    with pytest.raises(StoppedError):
        await backfill_of(world, Reader()).users(ids_of(250), report=stop_after(210))
    reader = Reader()
    progress = await backfill_of(world, reader).users(ids_of(250), anew=True)
    assert (progress.before, reader.users) == (0, ids_of(250))


async def test_who_begins_it_again_takes_it_over(world: World) -> None:
    """Two of them at work would spend the budget twice; the older one ends at its next save."""
    store = BackfillRepository(world.engine)
    other = backfill_of(world, Reader())

    class Overtaken(Reader):
        async def user(self, tenant: str, user_id: str, *, priority: Priority) -> None:
            await super().user(tenant, user_id, priority=priority)
            if len(self.users) == 150:
                what = next(iter(store_of(world)))
                store.begin("acme", what, "another", now=world.clock.now())

    with pytest.raises(PermanentError, match="another run"):
        await backfill_of(world, Overtaken()).users(ids_of(450))
    assert (await other.users(ids_of(450))).before == 100


async def test_a_store_or_tenant_that_is_away_stops_it_and_blames_no_user(world: World) -> None:
    away = False
    reader = Reader(lambda user_id: away)

    def goes(progress: Progress) -> None:
        nonlocal away
        away = away or progress.done == 200

    with pytest.raises(TransientError, match="store_away"):
        await backfill_of(world, reader).users(ids_of(450), report=goes)
    assert len(reader.users) == 200
    away = False
    progress = await backfill_of(world, reader).users(ids_of(450))
    assert (progress.done, progress.before, progress.failed) == (450, 200, ())
    assert reader.users == ids_of(450)


async def test_who_failed_is_remembered_over_a_stop_and_tried_once_more(world: World) -> None:
    broken = {"auth0|7", "auth0|8"}
    fails = Reader(lambda user_id: user_id in broken)
    with pytest.raises(StoppedError):
        await backfill_of(world, fails).users(ids_of(250), report=stop_after(210))
    broken.remove("auth0|8")
    still = Reader(lambda user_id: user_id in broken)
    progress = await backfill_of(world, still).users(ids_of(250))
    assert progress.failed == ("auth0|7",)
    assert progress.done == 249


class Shrinking(Search):
    """Of each page that it has shown the first ten are deleted, or log in once more."""

    def hit(self, request: httpx.Request, user_id: str, at: str) -> dict[str, Any]:
        self.shown.append(user_id)
        return super().hit(request, user_id, at)

    def answer(self, request: httpx.Request) -> httpx.Response | None:
        self.shown: list[str] = []
        answer = super().answer(request)
        if "include_totals" not in request.url.params:
            left = set(self.shown[:10])
            self.users = [one for one in self.users if one[0] not in left]
        return answer


async def test_nobody_is_passed_over_for_those_who_leave_the_list_meanwhile(world: World) -> None:
    Shrinking(world, crowd(450))
    reader = Reader()
    await backfill_of(world, reader).users()
    assert len(set(reader.users)) == 450


async def test_a_thousand_users_of_one_moment_ask_for_a_list(world: World) -> None:
    Search(world, crowd(1_100, at_once=2_000))
    with pytest.raises(PermanentError, match="--export"):
        await backfill_of(world, Reader()).users()


async def test_single_failures_do_not_stop_a_backfill(world: World) -> None:
    world.user(identity())
    world.auth0.on("/users/broken%7C1", (500, {}))
    progress = await backfill_of(world).users([ROSA, "broken|1", "nobody|1"])
    assert (progress.done, progress.gone, progress.failed) == (1, 1, ("broken|1",))


async def test_a_missing_scope_does(world: World) -> None:
    world.auth0.on("/users/google-oauth2%7C1", (403, {"errorCode": "insufficient_scope"}))
    with pytest.raises(ConfigurationError):
        await backfill_of(world).users([ROSA])


async def test_a_backfill_draws_last_from_the_budget(world: World) -> None:
    world.user(identity())
    await backfill_of(world).users([ROSA])
    user_read = next(taken for taken in world.shared.taken if taken["reserve"])
    assert user_read["reserve"] > 0


async def test_all_connections_are_read_and_lost_ones_noted(world: World) -> None:
    github = {"id": "con_gh", "name": "github", "strategy": "github", "options": {"client_id": "x"}}
    await world.puller.connection("acme", "google-oauth2")
    world.connection(github)
    world.auth0.on("/connections", (200, {"connections": [github]}), (200, [github]))
    world.auth0.on("/connections/con_google", (404, {}))
    seen: list[Progress] = []
    backfill = backfill_of(world)
    progress = await backfill.connections(known=["google-oauth2"], report=seen.append)
    assert (progress.done, progress.gone) == (1, 1)
    assert [(one.passed, one.total) for one in seen] == [(1, 2), (2, 2)]
    assert seen[0].ceiling == pytest.approx(16 * 0.6)  # requests a second, of the fake's plan
    assert [config.name for config in world.connections.all("acme")] == ["github"]


def test_what_is_left_is_told_from_the_rate_of_this_run_alone() -> None:
    told = Progress(done=1_100, gone=50, before=1_000, total=2_150, seconds=10)
    assert told.rate == 15
    assert told.eta == timedelta(seconds=1_000 / 15)
