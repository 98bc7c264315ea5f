"""The whole Auth0 side against a tenant that enforces Auth0's scopes, limits and pages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.auth0.fakes import in_place
from tests.clock import FakeClock, Sleepers
from tests.sync.world import World, backfill_of
from worker.auth0 import Budget, Credentials, ManagementApi, Priority, plan_named
from worker.auth0.budget import SHARE
from worker.domain.errors import NotFoundError, TransientError
from worker.domain.held import Withheld
from worker.domain.secret import Secret
from worker.rehearsal import RunningStage, StageSettings, rehearsal
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.tenants import TenantRepository
from worker.store.withholding import WithholdingRepository
from worker.sync import Departures, LogPoll

Make = Callable[..., tuple[RunningStage, World]]


@pytest.fixture
def make(sqlite_engine, vault) -> Iterator[Make]:
    """A stage and a puller that live by one clock, moved only by waiting."""
    with ExitStack() as stack:

        def begin(
            plan: str = "unlimited", clock: FakeClock | None = None, **settings: Any
        ) -> tuple[RunningStage, World]:
            clock = clock or FakeClock()
            told = StageSettings(plan=plan, clock=lambda: clock.now().timestamp(), **settings)
            stage = stack.enter_context(rehearsal(told))
            api = management_of(stage, plan, clock, TenantRepository(sqlite_engine, vault))
            return stage, World(sqlite_engine, vault, api=api, clock=clock)

        yield begin


def management_of(
    stage: RunningStage, plan: str, clock: FakeClock, tenants: TenantRepository
) -> ManagementApi:
    told = stage.stage.settings
    ours = None if plan == "unlimited" else plan
    pace = 10_000 if ours is None else None
    hooks: dict[str, Any] = {}
    if isinstance(clock, QuietClock):
        hooks = {"request": [clock.sent], "response": [clock.answered]}
    return ManagementApi(
        "acme",
        Credentials(
            domain=told.domain,
            client_id=told.client_id,
            client_secret=Secret(told.client_secret),
            base_url=stage.base_url,
        ),
        tenants=tenants,
        budget=Budget(
            "acme", plan_named(ours, requests_per_second=pace), tenants,
            clock=clock, offload=in_place,
        ),
        http=httpx.AsyncClient(trust_env=False, event_hooks=hooks),
        clock=clock,
        offload=in_place,
    )  # fmt: skip


async def test_our_scopes_are_seen_to_be_granted_or_missing(make):
    stage, world = make(scopes="read:users read:connections")
    assert list(await world.api.missing_scopes()) == [
        "read:user_idp_tokens",
        "read:connections_options",
    ]
    stage.login("google-oauth2", "rosa")
    await world.pull("google-oauth2|rosa")  # a user without tokens, and nothing breaks
    assert world.findings.users("acme", after="", limit=9) == []


async def test_what_a_login_left_at_auth0_is_what_we_hold(make):
    stage, world = make()
    user_id = stage.login("google-oauth2", "rosa")
    await world.pull(user_id)
    copy = stage.stage.tenant.users[user_id].identities[0]
    assert world.tokens(copy.user_id) == (copy.refresh_token, copy.access_token)
    assert world.grant(copy.user_id).due_at > world.clock.now()


async def test_a_later_login_replaces_it(make):
    stage, world = make()
    user_id = stage.login("google-oauth2", "rosa")
    await world.pull(user_id)
    world.clock.advance(600)
    stage.login("google-oauth2", "rosa", prompt_consent=True)
    await world.pull(user_id)
    copy = stage.stage.tenant.users[user_id].identities[0]
    assert world.tokens(copy.user_id) == (copy.refresh_token, copy.access_token)
    assert world.grant(copy.user_id).state == "active"


async def test_linking_unlinking_and_deletion_as_auth0_shows_them(make):
    stage, world = make()
    first, second = stage.login("google-oauth2", "rosa"), stage.login("acme-bitbucket", "rosa-b")
    for user_id in (first, second):
        await world.pull(user_id)
    subject = second.partition("|")[2]

    stage.do("link", primary=first, secondary=second)
    with pytest.raises(NotFoundError):
        await world.pull(second)
    await departures(world)("acme", second)
    assert world.grant(subject).user_id == first

    stage.do("unlink", primary=first, connection="acme-bitbucket", subject=subject)
    await world.pull(first)
    assert world.grant(subject).user_id == second


async def test_a_link_that_cannot_be_looked_up_costs_nobody_his_grant(make):
    """The tenant refuses to search by identity, and the link is seen as two 404s."""
    stage, world = make()
    first, second = stage.login("google-oauth2", "rosa"), stage.login("acme-bitbucket", "rosa-b")
    for user_id in (first, second):
        await world.pull(user_id)
    stage.do("faults", provider="auth0", profile="search_refused")
    stage.do("link", primary=first, secondary=second)
    await departures(world)("acme", second)
    subject = second.partition("|")[2]
    assert (world.grant(subject).state, world.grant(subject).withheld) == ("active", "user_missing")
    await world.pull(first)  # its own event brings it
    assert (world.grant(subject).user_id, world.grant(subject).withheld) == (first, None)
    assert stage.ledger()["total"]["revoked_by_us"] == 0


def departures(world: World) -> Departures:
    store = WithholdingRepository(world.engine, AuditLog("test"), outbox.add)

    async def bury(tenant: str, user_id: str, told: Any) -> None:
        assert not world.findings.of_user(tenant, user_id), "a linked identity would be buried"

    async def withhold(tenant: str, user_id: str) -> datetime:
        now = world.clock.now()
        store.withhold(tenant, user_id, Withheld.USER_MISSING, actor="test", now=now)
        return now

    return Departures(
        {"acme": world.api}, findings=world.findings, pull=world.puller, bury=bury,
        withhold=withhold, clock=world.clock, offload=in_place,
    )  # fmt: skip


async def test_an_administrators_consent_becomes_a_grant_of_the_connection(make):
    stage, world = make()
    name = next(n for n, c in stage.stage.tenant.connections.items() if c.strategy == "google-apps")
    await world.puller.connection("acme", name)
    row = world.grant(stage.stage.tenant.connections[name].id)
    assert (row.part, row.renewable) == ("admin", True)


@pytest.mark.parametrize("plan", ["free", "professional", "enterprise"])
async def test_a_backfill_and_live_logins_together_never_hit_the_tenants_limit(make, plan):
    stage, world = make(plan, clock=QuietClock())
    crowd = logins(stage, 60)
    began = world.clock.monotonic()

    async def live() -> None:
        for user_id in crowd[:10]:
            await patiently(world, user_id)

    backfill = backfill_of(world)
    _, progress = await asyncio.gather(live(), backfill.users(crowd))
    assert progress.done == 60
    assert stage.stage.management.buckets.refused == 0
    assert world.clock.monotonic() - began >= (60 - 50) / (16 * 0.6)  # it did wait


@pytest.mark.parametrize("plan", ["free", "professional", "enterprise"])
async def test_all_processes_draw_on_one_budget_and_the_live_ones_go_first(make, vault, plan):
    """Two processes, each with a backfill, forced reads and a live login now and then: Auth0 never
    says 429, a login waits for a few requests' time, and a forced read for less than a backfill."""
    clock = Timeline()
    stage, world = make(plan, clock=clock)
    _, bucket = plan_named(plan).bucket("users")
    pace, burst = bucket.rate * SHARE, bucket.burst * SHARE
    crowd = logins(stage, 10 + int(burst) // 2)
    waits: dict[Priority, list[float]] = {priority: [] for priority in Priority}

    async def read(api: ManagementApi, user_id: str, priority: Priority) -> None:
        began = clock.monotonic()
        while True:
            try:
                await api.user(user_id, priority=priority)
                break
            except TransientError as error:  # as the inbox does: again when it was told to
                await clock.sleep(error.retry_after.total_seconds())
        waits[priority].append(clock.monotonic() - began)

    async def live(api: ManagementApi) -> None:
        for user_id in crowd[:4]:
            await clock.sleep(3 / pace)
            await read(api, user_id, Priority.LIVE)

    def process() -> list[Awaitable[None]]:
        api = management_of(stage, plan, clock, TenantRepository(world.engine, vault))
        backfill = [read(api, user_id, Priority.BACKFILL) for user_id in crowd]
        forced = [read(api, user_id, Priority.FORCED) for user_id in crowd[:4]]
        return [*backfill, *forced, live(api)]

    began = clock.monotonic()
    await clock.until_done(asyncio.gather(*process(), *process()))
    assert stage.stage.management.buckets.refused == 0
    assert (
        clock.monotonic() - began >= (2 * (len(crowd) + 4 + 4) - burst) / pace
    )  # the budget did bind
    told = {priority: sum(found) / len(found) for priority, found in waits.items()}
    assert told[Priority.FORCED] < told[Priority.BACKFILL]
    assert told[Priority.LIVE] < max(told[Priority.FORCED], 1 / pace)
    assert max(waits[Priority.LIVE]) <= 8 / pace


class QuietClock(FakeClock):
    """Moves only while no request is under way: each arrives at the moment it was let go at, as
    it does where a request takes less time than the budget leaves between two."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = 0

    async def sleep(self, seconds: float) -> None:
        while self.under_way:
            await asyncio.sleep(0.001)
        self.advance(seconds)

    async def sent(self, _request: httpx.Request) -> None:
        self.under_way += 1

    async def answered(self, _response: httpx.Response) -> None:
        self.under_way -= 1


class Timeline(Sleepers, QuietClock):
    async def until_done(self, work: asyncio.Future[Any]) -> None:
        """Let time pass whenever nobody has anything to do at this moment."""
        while not work.done():
            quiet = 0
            while quiet < 10 and not work.done():
                await asyncio.sleep(0.0005 if self.under_way else 0)
                quiet = 0 if self.under_way else quiet + 1
            if self.sleepers and not work.done():
                self.wake_next()
        await work


def logins(stage: RunningStage, count: int) -> list[str]:
    subjects = [f"user-{number}" for number in range(count)]
    users: list[str] = stage.do("logins", connection="google-oauth2", subjects=subjects)
    return users


async def patiently(world: World, user_id: str) -> None:
    """As the inbox does: again when asked to."""
    while True:
        try:
            return await world.puller.user("acme", user_id, priority=Priority.LIVE)
        except TransientError as error:
            await world.clock.sleep(error.retry_after.total_seconds())


async def test_every_user_and_connection_of_the_tenant_is_found(make):
    stage, world = make()
    crowd = logins(stage, 104)
    backfill = backfill_of(world)
    assert (await backfill.users()).done == 104
    assert world.findings.users("acme", after="", limit=1000) == sorted(crowd)
    await backfill.connections()
    named = {config.name for config in world.connections.all("acme")}
    assert named == set(stage.stage.tenant.connections)


async def test_lost_webhooks_are_found_in_the_log(make):
    stage, world = make()
    found: list[Any] = []

    async def feed(tenant: str, records: Any) -> None:
        found.extend(one for raw in records if (one := json.loads(raw))["type"] == "s")

    async def gap(tenant: str) -> None:
        raise AssertionError("nothing is lost here")

    poll = LogPoll(
        {"acme": world.api}, TenantRepository(world.engine, world.vault), feed=feed,
        on_gap=gap, offload=in_place,
    )  # fmt: skip
    stage.login("google-oauth2", "before")
    await poll.once("acme")
    users = [stage.login("google-oauth2", f"user-{n}") for n in range(3)]
    await poll.once("acme")
    assert [record["user_id"] for record in found] == users
