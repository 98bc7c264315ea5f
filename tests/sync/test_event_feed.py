"""Events read by us, over Server-Sent Events: none lost, whatever closes or expires."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from tests.auth0.fakes import in_place
from tests.clock import FakeClock
from tests.sync.test_lost_webhooks import wait_for
from tests.sync.test_on_the_rehearsal_tenant import management_of
from tests.sync.world import World
from worker.auth0 import ManagementApi
from worker.auth0.events_api import Message, _Lines
from worker.domain.errors import ConfigurationError, PermanentError, TransientError
from worker.rehearsal import RunningStage, StageSettings, rehearsal
from worker.store.following import FollowingRepository, Position
from worker.store.tenants import TenantRepository
from worker.sync import EventFeed


class Reader:
    """Processes that follow one stage's events."""

    def __init__(self, stage: RunningStage, engine: Any, vault: Any, clock: FakeClock) -> None:
        self.stage, self.clock = stage, clock
        self.log = stage.stage.events
        self.log.marker_every = 0.05
        self.api: ManagementApi = management_of(
            stage, "unlimited", clock, TenantRepository(engine, vault)
        )
        self.following = FollowingRepository(engine)
        self.seen: list[str] = []
        self.gaps: list[str] = []
        self.store_away = False

    def process(self, name: str = "one") -> EventFeed:
        return EventFeed(
            {"acme": self.api}, self.following, feed=self._feed, on_gap=self._gap,
            holder=name, clock=self.clock, offload=in_place,
        )  # fmt: skip

    @asynccontextmanager
    async def following_events(self, name: str = "one") -> AsyncIterator[EventFeed]:
        feed = self.process(name)
        task = asyncio.ensure_future(feed.run("acme"))
        try:
            yield feed
        finally:
            if task.done():
                task.result()  # it should go on for ever: say what ended it
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _gap(self, tenant: str) -> None:
        self.gaps.append(tenant)

    async def _feed(self, tenant: str, told: Sequence[bytes]) -> None:
        if self.store_away:
            raise TransientError("store: away", code="store_away")
        events = [json.loads(event) for event in told]
        self.seen += [
            f"{event['type']} {event['data']['object']['user_id']}"
            for event in events
            if event["type"].startswith("user.")
        ]

    def login(self, subject: str) -> str:
        return f"user.created {self.stage.login('google-oauth2', subject)}"

    async def has(self, *events: str) -> None:
        await wait_for(lambda: set(events) <= set(self.seen))


@pytest.fixture
def reader(sqlite_engine: Any, vault: Any) -> Any:
    clock = FakeClock()
    told = StageSettings(clock=lambda: clock.now().timestamp())
    with rehearsal(told) as stage:
        yield Reader(stage, sqlite_engine, vault, clock)


async def test_events_come_without_a_door_of_ours(reader: Reader) -> None:
    async with reader.following_events():
        await wait_for(lambda: reader.log.served)
        await reader.has(reader.login("rosa"), reader.login("emil"))


async def test_a_restart_goes_on_where_it_left_off(reader: Reader) -> None:
    async with reader.following_events() as feed:
        await reader.has(reader.login("rosa"))
        await wait_for(lambda: reader.following.position("acme").offset)
    await feed.release("acme")
    offline = [reader.login(f"user-{n}") for n in range(20)]
    async with reader.following_events("two"):
        await reader.has(*offline)
    assert reader.seen.count("user.created google-oauth2|rosa") == 1


async def test_markers_move_the_position_on_though_nothing_happens(reader: Reader) -> None:
    """Else a quiet month's offset would have expired when something happens at last."""
    async with reader.following_events():
        await wait_for(lambda: reader.following.position("acme").offset)
        for n in range(5):  # of a type that we do not read
            reader.stage.call(reader.log.write, {"type": "role.created", "id": f"evt_{n}"})
        before = reader.following.position("acme").offset
        await wait_for(lambda: reader.following.position("acme").offset != before)
    assert reader.seen == []


async def test_a_connection_that_auth0_closes_is_opened_again(reader: Reader) -> None:
    reader.log.open_for = 0.05
    async with reader.following_events():
        await wait_for(lambda: reader.log.served >= 3)
        told = [reader.login(f"user-{n}") for n in range(10)]
        await reader.has(*told)


async def test_an_expired_offset_is_followed_on_by_time_and_a_reconcile(reader: Reader) -> None:
    async with reader.following_events() as feed:
        await reader.has(reader.login("rosa"))
        await wait_for(lambda: reader.following.position("acme").offset)
    await feed.release("acme")
    reader.stage.do("forget_events")
    async with reader.following_events("two"):
        await wait_for(lambda: reader.gaps)
        await reader.has(reader.login("emil"))
    assert set(reader.gaps) == {"acme"}


async def test_an_event_that_could_not_be_kept_comes_again(reader: Reader) -> None:
    async with reader.following_events():
        await wait_for(lambda: reader.following.position("acme").offset)
        reader.store_away = True
        told = reader.login("rosa")
        await asyncio.sleep(0.2)
        assert reader.seen == []
        reader.store_away = False
        await reader.has(told)


async def test_one_process_follows_and_another_takes_over_when_it_is_gone(reader: Reader) -> None:
    async with reader.following_events("one"):
        await reader.has(reader.login("rosa"))
        assert await reader.process("two").run("acme") == 0  # returns: it is held
        assert reader.log.served == 1
    # killed: nothing was released
    reader.clock.advance(200)
    async with reader.following_events("two"):
        await reader.has(reader.login("emil"))


async def test_too_many_connections_are_waited_out(reader: Reader) -> None:
    reader.log.connections = 0
    began = reader.clock.now()
    async with reader.following_events():
        await wait_for(lambda: (reader.clock.now() - began).total_seconds() > 30)
        reader.log.connections = 1
        await reader.has(reader.login("rosa"))


class Refusing:
    """A process whose tenant answers nothing but this, and where it had come to."""

    def __init__(self, engine: Any, vault: Any) -> None:
        self.world = World(engine, vault)
        self.following = FollowingRepository(engine)
        self.gaps: list[str] = []
        self.feed = EventFeed(
            {"acme": self.world.api}, self.following, feed=self._feed, on_gap=self._gap,
            holder="one", clock=self.world.clock, offload=in_place,
        )  # fmt: skip
        now = self.world.clock.now()
        self.following.hold("acme", "one", now=now, until=now)
        self.put("kept")

    def put(self, offset: str | None, *, ago: timedelta = timedelta(0)) -> None:
        at = self.world.clock.now() - ago
        self.following.put_position("acme", "one", Position(offset=offset, at=at))

    @property
    def asked(self) -> list[str]:
        """The types of events in each request."""
        told = [r.url.params for r in self.world.auth0.requests if r.url.path == "/api/v2/events"]
        return [" ".join(params.get_list("event_type")) for params in told]

    async def _feed(self, tenant: str, told: Sequence[bytes]) -> None:
        raise AssertionError("no events came")

    async def _gap(self, tenant: str) -> None:
        self.gaps.append(tenant)


CREDENTIALS = {
    "a scope taken away": ("/events", (403, {"errorCode": "insufficient_scope"})),
    "a plan without it": ("/events", (403, {"errorCode": "insufficient_entitlement"})),
    "a token refused": ("/events", (401, {"message": "Invalid token."})),
    "a wrong client secret": ("token", (401, {"error": "access_denied"})),
}


@pytest.mark.parametrize(("where", "answer"), CREDENTIALS.values(), ids=CREDENTIALS)
async def test_what_the_operator_has_to_mend_loses_no_place(
    sqlite_engine: Any, vault: Any, where: str, answer: Any
) -> None:
    process = Refusing(sqlite_engine, vault)
    if where == "token":
        process.world.auth0.token_answer = answer
    process.world.auth0.on("/events", answer)
    for _ in range(3):
        with pytest.raises(ConfigurationError):
            await process.feed.run("acme")
    assert process.following.position("acme").offset == "kept"
    assert process.gaps == []
    assert all("connection.deleted" in types for types in process.asked)


async def test_a_request_refused_for_good_does_not_begin_a_reconcile_after_another(
    sqlite_engine: Any, vault: Any
) -> None:
    process = Refusing(sqlite_engine, vault)
    process.world.auth0.on("/events", (400, {"errorCode": "invalid_query_string"}))
    with pytest.raises(PermanentError):
        await process.feed.run("acme")
    with pytest.raises(PermanentError):
        await process.feed.run("acme")
    assert process.gaps == ["acme"]


async def test_a_time_too_old_under_whatever_name_is_given_up(
    sqlite_engine: Any, vault: Any
) -> None:
    process = Refusing(sqlite_engine, vault)
    process.put(None, ago=timedelta(days=3))
    process.world.auth0.on("/events", (400, {"errorCode": "too_long_ago"}))
    with pytest.raises(PermanentError):
        await process.feed.run("acme")
    assert process.gaps == ["acme"]
    since = process.following.position("acme").at
    assert since is not None
    assert process.world.clock.now() - since < timedelta(minutes=1)


STREAM = (
    b":connected\n\nretry: 2000\n\n"
    b'event: user.updated\r\nid: a\r\ndata: {"offset":"a","event":{"id":"evt_1"}}\r\n\r\n'
    b'event: offset-only\nid: b\ndata: {"offset":"b"}\n\n: heartbeat\n\n'
    b'event: user.updated\nid: c\ndata: {"offset":"c",\n'
    b'data: "event":{"id":"evt_\xe2\x80\xa82"}}\n\n'
    b"event: user.updated\nid: d\ndata: not json\n\n"
    b'event: error\ndata: {"code":"cursor_expired","message":"gone"}\n\n'
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_messages_are_whole_however_their_bytes_were_cut(size: int) -> None:
    lines = _Lines()
    found: list[Message] = []
    for at in range(0, len(STREAM), size):
        found += lines.taken(STREAM[at : at + size])
    assert [message.offset for message in found] == ["a", "b", "c", "d", "d"]
    assert [message.event and json.loads(message.event) for message in found] == [
        {"id": "evt_1"}, None, {"id": "evt_\u20282"}, {"unreadable": "not json"}, None,
    ]  # fmt: skip
    assert found[-1].error == "cursor_expired"


def test_a_message_that_never_ends_is_given_up() -> None:
    lines = _Lines()
    for _ in range(4):
        assert list(lines.taken(b"data: " + b"x" * 1_000_000)) == []
    with pytest.raises(TransientError):
        list(lines.taken(b"x" * 1_000_000))
