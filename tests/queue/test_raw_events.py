"""A producer that knows nothing of Celery is served; on real brokers and in memory."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from sqlalchemy import Engine

from tests.events.payloads import ROSA, cloud_event, login
from tests.events.world import World
from worker.domain.errors import TransientError
from worker.events.inlet import QueueInlet
from worker.queue.app import celery_app
from worker.queue.consumer import (
    EXCHANGE,
    LONGEST_BODY,
    PREFETCH,
    EventConsumer,
    EventMessages,
    NoticePublisher,
    dead_queue,
    events_queue,
)
from worker.settings import load
from worker.store.dead_messages import DeadMessageRepository

BODY = json.dumps(cloud_event("user.deleted", "evt_1")).encode()


@pytest.fixture(params=["memory", "redis", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid4().hex}"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


class Line:
    """A broker, our consumer on it, and somebody who publishes."""

    def __init__(self, url: str, world: World) -> None:
        self.url = url
        self.world = world
        self.dead = DeadMessageRepository(world.engine)
        self.inlet = QueueInlet(
            world.intake,
            tenants=["acme"],
            bury=lambda why, body: self.dead.add(
                EXCHANGE, why=why, body=body, now=world.clock.now()
            ),
        )
        self.consumer = EventConsumer(self.connection(), self.inlet)
        self.thread: threading.Thread | None = None

    def connection(self) -> Connection:
        return Connection(self.url, transport_options={"polling_interval": 0.02})

    def start(self) -> None:
        with self.connection() as connection:
            scheme = connection.transport.driver_type
            for queue in (events_queue(scheme), dead_queue(scheme)):
                queue(connection.default_channel).declare()
        self.thread = threading.Thread(target=self.consumer.run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.consumer.stop()
        if self.thread:
            self.thread.join(10)

    def publish(self, body: bytes, key: str = "auth0.acme.user_deleted", **more: Any) -> None:
        told = {"content_type": "application/cloudevents+json", "content_encoding": "utf-8"}
        exchange = Exchange(EXCHANGE, type="topic", durable=True)
        with self.connection() as connection:
            connection.Producer().publish(
                body,
                exchange=exchange,
                declare=[exchange],
                routing_key=key,
                **{**told, **more},
            )

    def dead_count(self) -> int:
        with self.connection() as connection:
            scheme = connection.transport.driver_type
            return int(
                dead_queue(scheme)(connection.default_channel).queue_declare(passive=True)[1]
            )

    def wait(self, true: Callable[[], bool], seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (self.world.inbox.counts(), self.dead.newest())
            time.sleep(0.02)


@pytest.fixture
def line(broker_url: str, world: World) -> Iterator[Line]:
    made = Line(broker_url, world)
    yield made
    made.stop()


@pytest.fixture
def world(sqlite_engine: Engine, tmp_path: Any) -> World:
    return World(sqlite_engine, tmp_path)


def test_a_bare_producer_is_served(line: Line) -> None:
    line.start()
    line.publish(BODY)
    line.publish(BODY)  # twice: the inbox knows it
    line.publish(json.dumps(login("1")).encode(), "auth0.acme.login", content_type="text/plain")
    asked = cloud_event("evergrant.login", "evt_2", data={"user_id": ROSA, "connection": "x"})
    line.publish(json.dumps(asked).encode(), "auth0.acme.login")
    line.wait(lambda: line.world.inbox.counts() == {"new": 3})
    assert line.dead.newest() == []


def test_what_waited_before_we_came_is_served(line: Line) -> None:
    line.start()
    line.stop()
    line.publish(BODY)
    line.consumer = EventConsumer(line.connection(), line.inlet)
    line.start()
    line.wait(lambda: line.world.inbox.counts() == {"new": 1})


class Exploding:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was opened",))


def _poison() -> dict[str, tuple[bytes, str, dict[str, Any]]]:
    key = "auth0.acme.login"
    pickled = pickle.dumps(Exploding())
    binary = {"content_encoding": "binary"}
    named = cloud_event("evergrant.grant_revoked", "evt_9", data={"user_id": ROSA})
    return {
        "not_json": (b"{not json", key, {}),
        "no_id": (json.dumps(cloud_event(event_id="")).encode(), key, {}),
        "content_type": (
            pickled,
            key,
            {"content_type": "application/x-python-serialize", **binary},
        ),
        "content_type ": (b"a: 1", key, {"content_type": "application/x-yaml"}),
        "not_json ": (pickled, key, {"content_type": "application/json", **binary}),
        "compressed": (BODY, key, {"compression": "zlib"}),
        "unknown_tenant": (BODY, "auth0.nobody.login", {}),
        "routing_key": (BODY, "auth0.acme", {}),
        "routing_key ": (BODY, "auth0.ACME../x.login", {}),
        "too_large": (b" " * (LONGEST_BODY + 1), key, {}),
        "bad_id": (json.dumps(login("1", user_id="a\r\nb")).encode(), key, {}),
        "": (json.dumps(named).encode(), key, {}),
    }


def test_poison_ends_in_the_dead_letter_queue_and_is_listed(line: Line) -> None:
    """And what comes behind it is served all the same. A forged trigger of ours does nothing."""
    line.start()
    for body, key, more in _poison().values():
        line.publish(body, key, **more)
    line.publish(BODY)
    expected = sorted(name.strip() for name in _poison() if name)
    line.wait(lambda: len(line.dead.newest()) == len(expected))
    line.wait(lambda: line.dead_count() == len(expected))
    assert sorted(message.why for message in line.dead.newest()) == expected
    assert max(len(message.body) for message in line.dead.newest()) <= 64 * 1024
    line.wait(lambda: line.world.inbox.counts() == {"new": 1})


def test_a_hundred_megabytes_are_buried_and_the_next_is_served(
    rabbitmq_url: str, world: World
) -> None:
    line = Line(rabbitmq_url, world)
    line.start()
    line.publish(b" " * 100 * 1024 * 1024)
    line.publish(BODY)
    line.wait(lambda: world.inbox.counts() == {"new": 1}, 60)
    line.wait(lambda: [(m.why, len(m.body)) for m in line.dead.newest()] == [("too_large", 65536)])
    line.stop()


def test_while_nothing_can_take_it_a_message_stays_with_the_broker(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.queue.consumer._PAUSE", 0.05)
    line.world.store.away = True
    line.world.intake._spool = None
    line.start()
    line.publish(BODY)
    line.wait(lambda: line.world.store.asked > 0)
    assert line.dead.newest() == []
    line.world.store.away = False
    line.world.clock.advance(10)
    line.wait(lambda: line.world.inbox.counts() == {"new": 1})


def test_a_consumer_that_dies_before_the_commit_loses_nothing(
    rabbitmq_url: str, world: World
) -> None:
    """The message was delivered, its events never became durable, and no ack was sent."""
    line = Line(rabbitmq_url, world)

    class Dying(Exception):
        pass

    def die(messages: Any) -> Any:
        line.consumer.should_stop = True
        raise Dying

    line.start()
    line.stop()
    line.publish(BODY)
    doomed = EventConsumer(line.connection(), line.inlet)
    doomed._messages = type(doomed._messages)(_Inlet(die), True, lambda _s: None)
    with pytest.raises(Dying):
        doomed.run()
    doomed.connection.release()
    line.consumer = EventConsumer(line.connection(), line.inlet)
    line.start()
    line.wait(lambda: world.inbox.counts() == {"new": 1})
    line.stop()


class _Inlet:
    def __init__(self, take: Callable[[Any], Any]) -> None:
        self.take = take

    def bury(self, *, why: str, body: bytes) -> None:
        raise AssertionError(why)


def test_notices_reach_whoever_is_bound(broker_url: str, tmp_path: Path) -> None:
    """The publisher is the worker's own, the listener any kombu program."""
    ours = celery_app(load({"EVERGRANT_BROKER_URL": broker_url}, directory=tmp_path), [])
    heard: list[tuple[str, Any]] = []
    with Connection(broker_url, transport_options={"polling_interval": 0.02}) as connection:
        exchange = Exchange(NoticePublisher.EXCHANGE, type="topic", durable=True)
        queue = Queue(f"app-{uuid4().hex}", exchange, routing_key="acme.grant_needs_login")
        queue(connection.default_channel).declare()
        publish = NoticePublisher(ours.connection_for_write)
        publish("acme.grant_renewed", b'{"n":1}')
        publish("acme.grant_needs_login", b'{"n":2}')

        def hear(message: Any) -> None:
            heard.append((message.delivery_info["routing_key"], json.loads(message.body)))
            message.ack()

        with connection.Consumer([queue], on_message=hear):
            connection.drain_events(timeout=10)
        publish.close()
    assert heard == [("acme.grant_needs_login", {"n": 2})]


def test_a_broker_that_is_away_is_said_and_tried_again() -> None:
    publish = NoticePublisher(lambda: Connection("amqp://127.0.0.1:1//", connect_timeout=1))
    with pytest.raises(TransientError):
        publish("acme.x", b"{}")


class _Message:
    """As kombu hands it over, and what it was answered."""

    content_type, headers = "application/cloudevents+json", None

    def __init__(self, body: bytes, key: str = "auth0.acme.login") -> None:
        self.body, self.delivery_info = body, {"routing_key": key}
        self.answer = ""

    def ack(self) -> None:
        self.answer = "ack"

    def requeue(self) -> None:
        self.answer = "requeue"

    def reject(self, *, requeue: bool) -> None:
        self.answer = "reject"


def _messages(world: World, later: Any) -> tuple[EventMessages, list[int]]:
    inlet = QueueInlet(world.intake, tenants=["acme"], bury=lambda _why, _body: None)
    sizes: list[int] = []
    take = inlet.take

    def counted(messages: Any) -> Any:
        sizes.append(len(messages))
        return take(messages)

    inlet.take = counted  # type: ignore[method-assign]  # counts, and does the same
    return EventMessages(inlet, True, lambda _seconds: None, later), sizes


def test_messages_that_come_together_are_one_commit_and_poison_among_them_is_alone(
    world: World,
) -> None:
    soon: list[Callable[[], None]] = []
    handler, sizes = _messages(world, soon.append)
    sound = [_Message(json.dumps(login(str(n))).encode()) for n in range(9)]
    broken = [_Message(b"{"), _Message(BODY, "auth0.nobody.login")]
    for message in (*sound[:4], *broken, *sound[4:]):
        handler.on_message(message)
    assert {message.answer for message in sound} == {""}  # nothing is durable yet
    assert len(soon) == 1
    soon[0]()
    assert sizes == [11]
    assert {message.answer for message in sound} == {"ack"}
    assert {message.answer for message in broken} == {"reject"}
    assert world.inbox.counts() == {"new": 9}


def test_what_is_sound_in_a_message_is_taken_though_the_message_is_buried(world: World) -> None:
    handler, _ = _messages(world, None)
    message = _Message(b"[" + json.dumps(login("1")).encode() + b', {"log_id": "2", "data": 3}]')
    handler.on_message(message)
    assert message.answer == "reject"
    assert world.inbox.counts() == {"new": 1}


def test_no_more_wait_than_the_broker_sends_ahead(world: World) -> None:
    handler, sizes = _messages(world, lambda _flush: None)
    for number in range(PREFETCH):
        handler.on_message(_Message(json.dumps(login(str(number))).encode()))
    assert sizes == [PREFETCH]


def test_while_the_store_is_away_all_of_them_go_back(world: World) -> None:
    world.store.away, world.intake._spool = True, None
    handler, _ = _messages(world, None)
    message = _Message(BODY)
    handler.on_message(message)
    assert message.answer == "requeue"
