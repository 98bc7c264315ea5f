"""Users whom Auth0 no longer knows: withheld at once, ended only after a quiet time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.auth0.fakes import in_place
from tests.clock import FakeClock
from tests.sync.search import Search
from tests.sync.test_on_the_rehearsal_tenant import management_of
from tests.sync.world import ROSA, World, identity
from worker.domain.errors import NotFoundError, TransientError
from worker.domain.held import Withheld
from worker.rehearsal import RunningStage, StageSettings, rehearsal
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.tenants import TenantRepository
from worker.store.withholding import WithholdingRepository
from worker.sync import Departures

QUIET = timedelta(hours=1)
EMIL = "google-oauth2|2"


class Fates:
    """What would be ended, and what is withheld since when."""

    def __init__(self, world: World) -> None:
        self.world, self.ended, self.receipts = world, list[str](), list[Mapping[str, object]]()
        self.store = WithholdingRepository(world.engine, AuditLog("test"), outbox.add)
        self.departed = Departures(
            {"acme": world.api}, findings=world.findings, pull=world.puller, bury=self.end,
            withhold=self.withhold, clock=world.clock, offload=in_place, quiet=QUIET,
        )  # fmt: skip

    async def end(self, tenant: str, user_id: str, told: Mapping[str, object]) -> None:
        keys = self.world.findings.of_user(tenant, user_id)
        self.ended += [key.identity_user_id for key in keys]
        self.receipts.append(told)

    async def withhold(self, tenant: str, user_id: str) -> datetime:
        now, why = self.world.clock.now(), Withheld.USER_MISSING
        self.store.withhold(tenant, user_id, why, actor="test", now=now)
        return self.store.since(tenant, user_id, why) or now

    async def gone(self, user_id: str = ROSA) -> None:
        await self.departed("acme", user_id)

    def withheld(self, identity_user_id: str = "1") -> str | None:
        found: str | None = self.world.grant(identity_user_id).withheld
        return found


@pytest.fixture
def world(sqlite_engine: Any, vault: Any) -> World:
    return World(sqlite_engine, vault)


@pytest.fixture
async def fates(world: World) -> Fates:
    world.user(identity())
    await world.pull()
    return Fates(world)


async def test_linking_a_user_away_does_not_end_his_grants(world: World, fates: Fates) -> None:
    Search(world, [("auth0|primary", "2026"), (ROSA, "2026")])
    world.user(identity(), user_id="auth0|primary", logins=3)
    world.no_user()
    await fates.gone()
    assert (world.grant().user_id, fates.withheld()) == ("auth0|primary", None)
    assert fates.ended == []


async def test_nothing_is_handed_out_at_once_and_nothing_ended_before_the_quiet_time(
    world: World, fates: Fates
) -> None:
    Search(world, [])
    for minutes in (0, 1, 30, 28):
        world.clock.advance(minutes * 60)
        await fates.gone()
        assert (fates.withheld(), fates.ended) == ("user_missing", [])
    world.clock.advance(60)
    await fates.gone()
    assert fates.ended == ["1"]
    (told,) = fates.receipts
    assert told["quiet_seconds"] == 3600
    assert "search" in told


async def test_the_quiet_time_begins_anew_when_he_was_there_meanwhile(
    world: World, fates: Fates
) -> None:
    Search(world, [])
    await fates.gone()
    world.clock.advance(3000)
    await world.pull()
    assert fates.withheld() is None
    world.clock.advance(3000)
    await fates.gone()
    assert fates.ended == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((400, {"errorCode": "invalid_query_string"}), id="refused"),
        pytest.param((403, {"errorCode": "insufficient_scope"}), id="not allowed"),
        pytest.param((200, []), id="blind: it finds nobody at all, though we know of others"),
    ],
)
async def test_no_quiet_time_is_long_enough_where_the_search_cannot_be_asked(
    world: World, fates: Fates, answer: tuple[int, Any]
) -> None:
    """He may have been linked to somebody else; what is revoked does not come back."""
    world.user(identity("rt-b", user_id="2"), user_id=EMIL)
    await world.pull(EMIL)
    world.auth0.on("/users", answer)
    for _ in range(3):
        await fates.gone()
        assert (fates.ended, fates.withheld()) == ([], "user_missing")
        world.clock.advance(86_400)


async def test_a_search_that_finds_others_by_identity_is_believed_when_it_finds_nobody(
    world: World, fates: Fates
) -> None:
    found = (200, [{"user_id": EMIL, "created_at": "2026"}])
    world.auth0.on("/users", (200, []))
    await fates.gone()
    world.clock.advance(3600)
    world.auth0.on("/users", (200, []), found, found)
    await fates.gone()
    assert fates.ended == ["1"]
    asked = len(world.auth0.paths)
    world.auth0.on("/users", (200, []))
    await fates.gone()
    assert len(world.auth0.paths) == asked + 1  # it is proven once


async def test_while_the_index_still_lists_him_nothing_is_handed_out_nor_ended(
    world: World, fates: Fates
) -> None:
    """It has not heard of a link either."""
    world.auth0.on("/users", (200, [{"user_id": ROSA, "created_at": "2026"}]))
    for _ in range(2):
        with pytest.raises(TransientError):
            await fates.gone()
        assert (fates.ended, fates.withheld()) == ([], "user_missing")
        world.clock.advance(7200)


# ------------------------------------------------------------------ as Auth0 shows it


@pytest.fixture
def late(sqlite_engine: Any, vault: Any) -> Iterator[Callable[[float], tuple[RunningStage, World]]]:
    """A tenant whose search shows links late."""
    with ExitStack() as stack:

        def begin(delay: float) -> tuple[RunningStage, World]:
            clock = FakeClock()
            told = StageSettings(clock=lambda: clock.now().timestamp(), index_delay_s=delay)
            stage = stack.enter_context(rehearsal(told))
            api = management_of(stage, "unlimited", clock, TenantRepository(sqlite_engine, vault))
            return stage, World(sqlite_engine, vault, api=api, clock=clock)

        yield begin


@pytest.mark.parametrize("delay", [0, 60, 3000])
async def test_a_link_that_the_index_shows_late_costs_nobody_his_grant(
    late: Callable[[float], tuple[RunningStage, World]], delay: float
) -> None:
    """The primary's own event is lost too, so that only the search can tell of the link."""
    stage, world = late(delay)
    first, second = stage.login("google-oauth2", "rosa"), stage.login("acme-bitbucket", "rosa-b")
    for user_id in (first, second):
        await world.pull(user_id)
    fates = Fates(world)
    stage.do("link", primary=first, secondary=second)
    for _ in range(3):
        world.clock.advance(30)
        with pytest.raises(NotFoundError):
            await world.pull(second)
    await fates.gone(second)
    mine = second.partition("|")[2]
    assert fates.withheld(mine) == ("user_missing" if delay > 90 else None)
    world.clock.advance(3600)
    await fates.gone(second)
    assert (world.grant(mine).user_id, fates.withheld(mine)) == (first, None)
    assert fates.ended == []
