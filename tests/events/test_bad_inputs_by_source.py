"""Bad records, ids and lies (docs/bad-inputs.md, 10 to 17 and 19 to 25) by every way in.

Each is sent between two good ones. It is taken for what it is, kept for a human, or ignored; the
good ones are served in any case, nobody is deleted, and nothing stops.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.auth0.fakes import ALL_SCOPES, FakeTenant, SharedTenants, in_place, management
from tests.events.payloads import ROSA, action_message, cloud_event, login
from tests.events.world import World
from tests.ingress.test_doors import HUSH, Front, signed
from tests.queue.test_raw_events import _Message
from worker.domain.event import Source
from worker.events import joined
from worker.events.inlet import QueueInlet
from worker.ingress import Bounds
from worker.queue.consumer import EventMessages
from worker.store.dead_messages import DeadMessageRepository
from worker.store.following import FollowingRepository
from worker.sync import EventFeed, LogPoll, StreamWatch


class Everywhere:
    """One inbox, and every way into it."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.world = World(engine, directory)
        self.front = Front(self.world, Bounds())
        self.auth0 = FakeTenant(f"{ALL_SCOPES} read:logs read:event_streams read:event_deliveries")
        self.shared = SharedTenants(log_id="1")
        self.apis = {"acme": management(self.auth0, self.shared, clock=self.world.clock)}
        self.following = FollowingRepository(engine)
        self.dead = DeadMessageRepository(engine)

    async def lines(self, records: Sequence[bytes]) -> None:
        await self._posted(b"\n".join(records))

    async def array(self, records: Sequence[bytes]) -> None:
        await self._posted(joined(records))

    async def object(self, records: Sequence[bytes]) -> None:
        await self._posted(b'{"logs": ' + joined(records) + b"}")

    async def event_stream(self, records: Sequence[bytes]) -> None:
        for record in records:
            await self._posted(record, ("Authorization", "Bearer t0ken"), door="events")

    async def event_bridge(self, records: Sequence[bytes]) -> None:
        for record in records:
            body = b'{"version": "0", "detail-type": "Auth0", "detail": ' + record + b"}"
            await self._posted(body, ("X-Evergrant", "custom"), door="events")

    async def action(self, records: Sequence[bytes]) -> None:
        for number, record in enumerate(records):
            await self._signed(record, number)

    async def event_streams_action(self, records: Sequence[bytes]) -> None:
        for number, record in enumerate(records):
            await self._signed(b'{"kind": "event-stream", "event": ' + record + b"}", number)

    async def queue(self, records: Sequence[bytes]) -> None:
        def bury(why: str, body: bytes) -> None:
            self.dead.add("evergrant.events", why=why, body=body, now=self.world.clock.now())

        inlet = QueueInlet(self.world.intake, tenants=["acme"], bury=bury)
        messages = EventMessages(inlet, True, lambda _seconds: None)
        for record in records:
            message = _Message(record)
            messages.on_message(message)
            assert message.answer in ("ack", "reject")

    async def log_poll(self, records: Sequence[bytes]) -> None:
        page = b"[" + b", ".join(records) + b"]"
        self.auth0.on("/logs", (200, page), (200, []))
        poll = LogPoll(
            self.apis, self.shared, feed=self._into(Source.LOGS), on_gap=_none, offload=in_place
        )
        assert await poll.once("acme") == len(records)
        assert self.shared.log_id == "last"

    async def events_api(self, records: Sequence[bytes]) -> None:
        stream = b":connected\n\n"
        for number, record in enumerate(records):
            data = b'{"offset": "%d", "event": ' % number + record + b"}"
            stream += b"event: user.updated\nid: %d\ndata: " % number + data + b"\n\n"
        self.auth0.on("/events", (200, stream), RuntimeError("the test is over"))
        feed = EventFeed(
            self.apis, self.following, feed=self._into(Source.EVENTS), on_gap=_none,
            holder="me", clock=self.world.clock, offload=in_place,
        )  # fmt: skip
        with pytest.raises(RuntimeError, match="over"):
            await feed.run("acme")
        assert self.following.position("acme").offset == str(len(records) - 1)

    async def failed_deliveries(self, records: Sequence[bytes]) -> None:
        ours = {"configuration": {"webhook_endpoint": "https://x/hooks/auth0/acme/events"}}
        self.auth0.on("/event-streams", (200, [{"id": "est_1", "destination": ours}]))
        page = [b'{"id": "dlv_%d", "event": ' % n + one + b"}" for n, one in enumerate(records)]
        body = b'{"deliveries": [' + b", ".join(page) + b"]}"
        self.auth0.on("/event-streams/est_1/deliveries", (200, body))
        watch = StreamWatch(
            self.apis, self.following, feed=self._into(Source.EVENTS), tell=lambda _told: None,
            clock=self.world.clock, offload=in_place,
        )  # fmt: skip
        assert (await watch.once("acme"))["failed_deliveries"] == len(records)

    async def _posted(self, body: bytes, *headers: tuple[str, str], door: str = "logs") -> None:
        shown = headers or (("Authorization", HUSH),)
        assert (await self.front.post(body, *shown, door=door)).status_code == 202

    async def _signed(self, body: bytes, number: int) -> None:
        text = body.decode("utf-8", "surrogateescape")
        if "\udc80" <= max(text) <= "\udcff":  # Node sends no such bytes, and signs text
            body = body.decode("utf-8", "replace").encode()
        headers = signed(body, id_=f"msg_{number}")
        await self._posted(body, *headers, door="actions")

    def _into(self, source: Source) -> Callable[[str, Sequence[bytes]], Awaitable[None]]:
        async def feed(tenant: str, records: Sequence[bytes]) -> None:
            intake = self.world.intake
            await intake.receive(tenant, source, joined(records), offload=in_place)

        return feed

    @property
    def kept(self) -> int:
        """Whatever waits for a human."""
        return self.world.inbox.counts().get("unreadable", 0) + len(self.dead.newest())


async def _none(tenant: str) -> None:
    raise AssertionError("nothing is lost")


Way = Callable[[Everywhere, Sequence[bytes]], Awaitable[None]]
WAYS: dict[str, tuple[str, Way]] = {
    "log stream, lines": ("log", Everywhere.lines),
    "log stream, array": ("log", Everywhere.array),
    "log stream, object": ("log", Everywhere.object),
    "EventBridge, logs": ("log", Everywhere.event_bridge),
    "queue, logs": ("log", Everywhere.queue),
    "log poll": ("log", Everywhere.log_poll),
    "event stream": ("event", Everywhere.event_stream),
    "EventBridge, events": ("event", Everywhere.event_bridge),
    "event stream's Action": ("event", Everywhere.event_streams_action),
    "queue, events": ("event", Everywhere.queue),
    "Events API": ("event", Everywhere.events_api),
    "failed deliveries": ("event", Everywhere.failed_deliveries),
    "post-login Action": ("action", Everywhere.action),
}
TENANT_FIELD = {"log": "tenant_name", "event": "a0tenant", "action": "tenant"}
TIME_FIELD = {"log": "date", "event": "time", "action": "at"}


def record(
    kind: str, id_: str = "bad", user_id: Any = ROSA, *, more: bytes = b"", **fields: Any
) -> bytes:
    """One record about a user; `more` is JSON put behind its last field, as it stands."""
    if kind == "log":
        told: dict[str, Any] = login(id_, user_id=user_id, **fields)
    elif kind == "event":
        about = {"data": {"object": {"user_id": user_id}}}
        told = cloud_event("user.updated", f"evt_{id_}", **{**about, **fields})
    else:
        told = action_message(user_id=user_id, **fields)
    text = json.dumps(told, ensure_ascii=True).encode()
    return text[:-1] + more + b"}"


def marked(kind: str, mark: bytes) -> bytes:
    """With bytes in the user's id that no encoder would write."""
    return record(kind, user_id="auth0|MARK").replace(b"MARK", mark)


def deletion(kind: str) -> bytes:
    if kind == "log":
        return record(kind, type="sdu")
    return record(kind, type="user.deleted")


TAKEN, KEPT, IGNORED = "taken", "kept", "ignored"
BAD: dict[str, tuple[Callable[[str], bytes], str]] = {
    "nested ten thousand deep": (
        lambda kind: record(kind, more=b', "x": ' + b"[" * 10_000 + b"]" * 10_000),
        TAKEN,
    ),
    "doubled keys": (lambda kind: record(kind, more=b', "ip": 1, "ip": 2'), TAKEN),
    "NaN": (lambda kind: record(kind, more=b', "x": NaN'), TAKEN),
    "1e400": (lambda kind: record(kind, more=b', "x": 1e400'), TAKEN),
    "a comma too many": (lambda kind: record(kind, more=b",,"), KEPT),
    "bad UTF-8 in an id": (lambda kind: marked(kind, b"\xff\xfe"), KEPT),
    "bad UTF-8 elsewhere": (lambda kind: record(kind, more=b', "x": "\xff"'), TAKEN),
    "half an emoji in an id": (lambda kind: marked(kind, b"\\ud83d"), KEPT),
    "half an emoji elsewhere": (lambda kind: record(kind, more=b', "x": "\\ud83d"'), TAKEN),
    "NUL in an id": (lambda kind: marked(kind, b"\\u0000"), KEPT),
    "line break in an id": (lambda kind: marked(kind, b"\\r\\nX-Y: z"), KEPT),
    "terminal code in an id": (lambda kind: marked(kind, b"\\u001b[2J"), KEPT),
    "endless id": (lambda kind: marked(kind, b"x" * 2_000), KEPT),
    "an object for an id": (lambda kind: record(kind, user_id={"$ne": ""}), KEPT),
    "no id": (lambda kind: record(kind, user_id=""), KEPT),
    "SQL in an id": (lambda kind: record(kind, user_id="x'; DROP TABLE inbox; --"), TAKEN),
    "a path in an id": (lambda kind: record(kind, user_id="auth0|../../x"), TAKEN),
    "an encoded slash in an id": (lambda kind: record(kind, user_id="auth0%2f|%2f"), TAKEN),
    "ten years ahead": (
        lambda kind: record(kind, **{TIME_FIELD[kind]: "2036-01-01T00:00:00Z"}),
        TAKEN,
    ),
    "ten years ago": (
        lambda kind: record(kind, **{TIME_FIELD[kind]: "2016-01-01T00:00:00Z"}),
        TAKEN,
    ),
    "no time at all": (lambda kind: record(kind, **{TIME_FIELD[kind]: {"x": []}}), TAKEN),
    "an unknown stream": (lambda kind: record(kind, more=b', "a0stream": "est_x"'), TAKEN),
    "another tenant's": (lambda kind: record(kind, **{TENANT_FIELD[kind]: "else"}), IGNORED),
    "a forged deletion": (deletion, TAKEN),
}
NOT_THERE = {
    ("post-login Action", "a forged deletion"),  # it tells of logins alone
    # a page of them is one JSON text of Auth0's own making: it is asked for again, and the log
    # poll tells meanwhile
    ("failed deliveries", "a comma too many"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("way", WAYS)
async def test_a_bad_record_between_good_ones(
    sqlite_engine: Engine, tmp_path: Path, way: str, name: str
) -> None:
    if (way, name) in NOT_THERE:
        return
    (kind, deliver), (bad, outcome) = WAYS[way], BAD[name]
    site = Everywhere(sqlite_engine, tmp_path)
    good = [record(kind, "first", "auth0|first"), record(kind, "last", "auth0|last")]
    await deliver(site, [good[0], bad(kind), good[1]])
    assert site.kept == (outcome == KEPT)
    site.world.clock.advance(4)
    await site.world.work()
    done = site.world.inbox.counts().get("done", 0)
    assert done == (3 if outcome == TAKEN else 2)
    read = [user for _, user in site.world.pull.users]
    assert {"auth0|first", "auth0|last"} <= set(read)
    assert site.world.forgotten == []  # no lie deletes anybody
    assert site.world.inbox.counts().get("failed", 0) == 0


@pytest.mark.parametrize("way", [way for way in WAYS if way != "post-login Action"])
async def test_one_id_however_often_and_with_whatever_body_is_one_event(
    sqlite_engine: Engine, tmp_path: Path, way: str
) -> None:
    kind, deliver = WAYS[way]
    site = Everywhere(sqlite_engine, tmp_path)
    await deliver(site, [*[record(kind, "last")] * 1_000, record(kind, "last", "auth0|other")])
    assert site.world.inbox.counts() == {"new": 1}


async def batch_of_cloud_events(site: Everywhere, records: Sequence[bytes]) -> None:
    await site._posted(joined(records), ("Authorization", "Bearer t0ken"), door="events")


async def one_message(site: Everywhere, records: Sequence[bytes]) -> None:
    await site.queue([joined(records)])


AT_ONCE: dict[str, tuple[str, Way, dict[str, int]]] = {
    "log stream, lines": ("log", Everywhere.lines, {"new": 10_000}),
    "log stream, array": ("log", Everywhere.array, {"new": 10_000}),
    "log stream, object": ("log", Everywhere.object, {"new": 10_000}),
    "log poll": ("log", Everywhere.log_poll, {"new": 10_000}),
    "event stream": ("event", batch_of_cloud_events, {"new": 10_000}),
    "Events API": ("event", Everywhere.events_api, {"new": 10_000}),
    "failed deliveries": ("event", Everywhere.failed_deliveries, {"new": 10_000}),
    "queue": ("event", one_message, {}),  # larger than a message may be: buried
}


@pytest.mark.parametrize("way", AT_ONCE)
async def test_ten_thousand_at_once(sqlite_engine: Engine, tmp_path: Path, way: str) -> None:
    kind, deliver, rows = AT_ONCE[way]
    site = Everywhere(sqlite_engine, tmp_path)
    names = [*map(str, range(9_999)), "last"]
    await deliver(site, [record(kind, name, f"auth0|{name}") for name in names])
    assert site.world.inbox.counts() == rows
    assert site.kept == (not rows)


@pytest.mark.parametrize("way", [way for way, (kind, _) in WAYS.items() if kind == "event"])
async def test_created_and_deleted_in_the_wrong_order(
    sqlite_engine: Engine, tmp_path: Path, way: str
) -> None:
    """What Auth0 says of the user when asked counts, by whichever way and in whichever order."""
    site = Everywhere(sqlite_engine, tmp_path)
    created = record("event", "1", type="user.created")
    await WAYS[way][1](site, [record("event", "2", type="user.deleted"), created])
    await site.world.work_for(8)
    assert site.world.inbox.counts() == {"done": 2}
    assert site.world.forgotten == []
