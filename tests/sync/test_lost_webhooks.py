"""Every webhook lost: what happens at the tenant is found by asking, within 15 minutes (I25)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.auth0.fakes import in_place
from tests.clock import FakeClock
from tests.rehearsal.receiver import receiving
from tests.sync.test_on_the_rehearsal_tenant import management_of
from tests.sync.world import World
from worker.actions import Collaborators, Registry, built_in
from worker.bootstrap.following import EVERY_LOG, EVERY_STREAM, Following
from worker.domain.event import Source
from worker.domain.held import Withheld
from worker.domain.ports import Notice
from worker.events import Intake, Processor, Spool, TenantFacts, joined
from worker.events.facts import auth0_name_of
from worker.rehearsal import RunningStage, StageSettings, rehearsal
from worker.store.engine import reading
from worker.store.following import FollowingRepository
from worker.store.hints import HintRepository
from worker.store.inbox import InboxRepository
from worker.store.tables import PullRow
from worker.store.tenants import TenantRepository
from worker.sync import Departures, LogPoll, StreamWatch, explain_problem
from worker.sync.problems import SYNC_FAILED

NOBODY = "http://127.0.0.1:9/hooks/auth0/acme"  # nothing listens there
PROMPTLY = timedelta(minutes=15)


class Deaf:
    """A worker that no webhook reaches, on a tenant whose time only waiting moves."""

    def __init__(self, stage: RunningStage, world: World, directory: Path) -> None:
        self.stage, self.world, self.clock = stage, world, world.clock
        self.notices: list[Notice] = []
        self.buried: list[str] = []
        self.withheld: list[str] = []
        facts = TenantFacts(name="acme", own_client_id=stage.stage.settings.client_id,
                            auth0_name=auth0_name_of(stage.stage.settings.domain))  # fmt: skip
        self.inbox = InboxRepository(world.engine)
        self.intake = Intake(
            inbox=self.inbox, tenants={"acme": facts}, spool=Spool(directory),
            ring=lambda: None, clock=self.clock,
        )  # fmt: skip
        self.streams = FollowingRepository(world.engine)
        self.watch = StreamWatch(
            {"acme": world.api}, self.streams, feed=self._feed(Source.EVENTS),
            tell=self.notices.extend, clock=self.clock, offload=in_place,
        )  # fmt: skip
        tenants = TenantRepository(world.engine, world.vault)
        self.poll = LogPoll(
            {"acme": world.api},
            tenants,
            feed=self._feed(Source.LOGS),
            on_gap=_no_gap,
            offload=in_place,
        )
        self.following = Following(
            {
                "poll_logs": (EVERY_LOG, self._polled),
                "watch_streams": (EVERY_STREAM, lambda: self.watch.once("acme")),
            },
            take=HintRepository(world.engine).take, clock=self.clock, offload=in_place,
        )  # fmt: skip
        departures = Departures(
            {"acme": world.api}, findings=world.findings, pull=world.puller, bury=self._bury,
            withhold=self._withhold, clock=self.clock, offload=in_place,
        )  # fmt: skip
        self.processor = Processor(
            inbox=self.inbox,
            actions=Registry(built_in(), collaborators=Collaborators(
                pull=world.puller, forget=departures, tell=self.notices.extend,
                connection_name=lambda _tenant, _id: None, brake=lambda _tenant, *, for_: None,
                owner=world.findings.owner,
                holds=lambda tenant, user: bool(world.findings.of_user(tenant, user)),
                reserve=lambda tenant, subject, *, gap: world.pulls.reserve(
                    tenant, subject, gap=gap, now=self.clock.now()),
                synced=lambda tenant, name, *, failed, at: world.findings.synced(
                    tenant, name, SYNC_FAILED, failed=failed, at=at, now=self.clock.now()),
                clock=self.clock, offload=in_place,
            )),
            clock=self.clock, offload=in_place,
        )  # fmt: skip

    async def pass_time(self, time: timedelta) -> None:
        """What a worker does meanwhile: look who is due to follow, work the inbox off."""
        until = self.clock.now() + time
        while self.clock.now() < until:
            self.clock.advance(20)
            await self.following.begin()
            await asyncio.gather(*self.following._running.values())
            await self.processor.process(budget_seconds=5)

    def pulled_since(self, user_id: str, moment: Any) -> bool:
        """Whether a pull that has ended began later: whatever happened before it is in."""
        asked = select(PullRow.pulled_at).where(PullRow.subject == f"user:{user_id}")
        with reading(self.world.engine) as connection:
            at = connection.execute(asked).scalar_one_or_none()
        return at is not None and at >= moment

    def _feed(self, source: Source) -> Callable[..., Awaitable[None]]:
        async def feed(tenant: str, records: Sequence[bytes]) -> None:
            await self.intake.receive(tenant, source, joined(records), offload=in_place)

        return feed

    async def _polled(self) -> dict[str, int]:
        return {"acme": await self.poll.once("acme")}

    async def _withhold(self, tenant: str, user_id: str) -> datetime:
        self.withheld.append(user_id)
        return self.clock.now()

    async def _bury(self, tenant: str, user_id: str, told: Any) -> None:
        self.buried.append(user_id)


@pytest.fixture
def deaf(sqlite_engine: Any, vault: Any, tmp_path: Path) -> Iterator[Callable[..., Deaf]]:
    with ExitStack() as stack:

        def begin(**settings: Any) -> Deaf:
            clock = FakeClock()
            told = StageSettings(clock=lambda: clock.now().timestamp(), pace=0.001, **settings)
            stage = stack.enter_context(rehearsal(told))
            api = management_of(
                stage, "unlimited", clock, TenantRepository(sqlite_engine, vault)
            )  # fmt: skip
            return Deaf(stage, World(sqlite_engine, vault, api=api, clock=clock), tmp_path)

        yield begin


SCOPES = "read:users read:user_idp_tokens read:connections read:connections_options"


async def wait_for(what: Callable[[], object]) -> None:
    """For the stage's own thread, which lives in real time."""
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "scopes",
    [
        f"{SCOPES} read:logs",
        f"{SCOPES} read:logs read:log_streams read:event_streams read:event_deliveries",
    ],
    ids=["by the log alone", "with every scope"],
)
async def test_a_login_a_block_and_a_deletion_are_acted_on_within_a_quarter_of_an_hour(
    deaf: Callable[..., Deaf], scopes: str
) -> None:
    one = deaf(scopes=scopes)
    one.stage.do(
        "send_to",
        logs={"url": f"{NOBODY}/logs", "authorization": "x"},
        events={"url": f"{NOBODY}/events", "bearer": "x"},
    )
    await one.pass_time(timedelta(minutes=2))  # the checkpoint stands

    rosa, emil = (one.stage.login("google-oauth2", name) for name in ("rosa", "emil"))
    await one.pass_time(PROMPTLY)
    for user_id in (rosa, emil):
        copy = one.stage.stage.tenant.users[user_id].identities[0]
        assert one.world.tokens(copy.user_id) == (copy.refresh_token, copy.access_token)

    blocked_at = one.clock.now()
    one.stage.do("update_user", user_id=rosa, blocked=True)
    one.stage.do("delete_user", user_id=emil)
    await one.pass_time(PROMPTLY)
    assert one.pulled_since(rosa, blocked_at)
    assert one.world.grant("rosa").withheld == Withheld.USER_BLOCKED
    assert set(one.withheld) == {emil}


async def test_a_directory_sync_that_fails_is_seen_until_the_administrator_consents_again(
    deaf: Callable[..., Deaf],
) -> None:
    """Told by the log alone; no token of ours is touched by the failure."""
    one = deaf(scopes=f"{SCOPES} read:logs")
    tenant = one.stage.stage.tenant
    name = next(n for n, c in tenant.connections.items() if c.strategy == "google-apps")
    issuer = tenant.connections[name].provider.issuer
    await one.world.puller.connection("acme", name)
    await one.pass_time(timedelta(minutes=2))  # the checkpoint stands

    def problems() -> list[str]:
        return list(one.world.findings.all("acme").get(name, ()))

    issuer.withdraw("admin@acme.example")
    assert one.stage.do("directory_sync", name=name) is False
    await one.pass_time(PROMPTLY)
    assert problems() == [SYNC_FAILED]
    assert "consents again" in explain_problem(SYNC_FAILED)

    one.stage.do("consent_as_admin", name=name, admin="admin@acme.example")
    await one.world.puller.connection("acme", name)
    assert problems() == []
    assert one.stage.do("directory_sync", name=name) is True
    await one.pass_time(PROMPTLY)
    assert problems() == []


async def test_what_an_event_stream_could_not_deliver_is_fetched_without_the_log(
    deaf: Callable[..., Deaf],
) -> None:
    one = deaf(scopes=f"{SCOPES} read:event_streams read:event_deliveries")
    one.poll.once = _nothing  # type: ignore[method-assign]  # this tenant does not show its log
    one.stage.do("send_to", events={"url": f"{NOBODY}/events", "bearer": "x"})
    user_id = one.stage.login("google-oauth2", "rosa")
    (stream,) = one.stage.stage.event_streams
    await wait_for(lambda: stream.kept)
    await one.pass_time(PROMPTLY)
    assert one.world.tokens("rosa") is not None
    assert one.inbox.counts() == {"done": 1}  # read every five minutes, taken in once
    assert user_id


async def test_a_shut_door_is_knocked_at_once_in_five_minutes_and_an_open_one_gets_the_rest(
    deaf: Callable[..., Deaf],
) -> None:
    """A thousand redeliveries to a door that is still shut would have the stream disabled."""
    one = deaf()
    one.stage.do("send_to", events={"url": f"{NOBODY}/events", "bearer": "x"})
    one.stage.do("logins", connection="google-oauth2", subjects=[f"u{n}" for n in range(20)])
    (stream,) = one.stage.stage.event_streams
    await wait_for(lambda: len(stream.kept) == 20)
    before = stream.result.failed
    await one.watch.once("acme")
    await wait_for(lambda: len(stream.kept) == 20 and stream.result.failed > before)
    assert stream.result.failed == before + 1

    with receiving() as door:
        one.stage.call(setattr, stream, "url", f"{door.url}/hooks/auth0/acme/events")
        await one.watch.once("acme")  # the one again
        await wait_for(lambda: len(door.received) == 1)
        await one.watch.once("acme")  # it went through: all the others
        await wait_for(lambda: len(door.received) == 20)
    assert not stream.kept


async def test_a_stream_that_auth0_stopped_is_told_once_and_again_when_it_stops_again(
    deaf: Callable[..., Deaf],
) -> None:
    one = deaf()
    one.stage.do(
        "send_to",
        logs={"url": f"{NOBODY}/logs", "authorization": "x"},
        events={"url": f"{NOBODY}/events", "bearer": "x"},
    )
    await one.pass_time(timedelta(minutes=6))
    assert one.notices == []
    one.stage.do("suspend_logs")
    one.stage.call(setattr, one.stage.stage.event_streams[0], "enabled", False)
    await one.pass_time(timedelta(minutes=20))
    told = sorted(notice.reason for notice in one.notices)
    assert told == [
        "event_stream est_rehearsal000000000001 is disabled",
        "log_stream lst_0000000000000001 is suspended",
    ]
    assert {line.status for line in one.streams.streams("acme")} == {"disabled", "suspended"}

    one.stage.do("suspend_logs", suspended=False)
    await one.pass_time(timedelta(minutes=6))
    one.stage.do("suspend_logs")
    await one.pass_time(timedelta(minutes=6))
    assert len(one.notices) == 3
    assert len({notice.episode for notice in one.notices}) == 3


async def test_streams_to_somebody_else_are_none_of_our_business(
    deaf: Callable[..., Deaf],
) -> None:
    one = deaf()
    one.stage.do("send_to", logs={"url": "http://127.0.0.1:9/siem", "authorization": "x"})
    one.stage.do("suspend_logs")
    await one.pass_time(timedelta(minutes=6))
    assert one.notices == []
    assert one.streams.streams("acme") == []


async def _no_gap(tenant: str) -> None:
    raise AssertionError("nothing is lost here")


async def _nothing(*_args: Any, **_kwargs: Any) -> int:
    return 0
