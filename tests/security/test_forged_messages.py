"""Somebody writes to the broker who should not (I21, T12).

A worker of the real product, on Redis. Whatever arrives there, nothing is run, nothing changes but
that due work may be looked at early, and the worker goes on.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from tests.cli.conftest import Running, started
from worker.bootstrap.base import load_entries
from worker.queue.app import celery_app
from worker.settings import load

GOOGLE = "renew.google-oauth2"


class Broker:
    """What a forger has: the broker's address, and our source to learn from."""

    def __init__(self, running: Running, pwned: Path) -> None:
        settings = load(running.environment)
        self.app: Celery = celery_app(settings, load_entries(settings).names())
        self.app.conf.task_routes = None  # a forger names the queue himself
        self.pwned = pwned
        self.command = f"touch {pwned}"

    def send(self, task: str, queue: str = GOOGLE, **more: Any) -> None:
        self.app.send_task(task, queue=queue, routing_key=queue, **more)

    def publish(self, body: bytes, content_type: str, queue: str = GOOGLE) -> None:
        """A task's message, in a serialisation of the forger's choice."""
        with self.app.connection_for_write() as connection:
            connection.Producer().publish(
                body,
                exchange=Exchange("evergrant.work", type="direct"),
                routing_key=queue,
                content_type=content_type,
                content_encoding="binary",
                headers={"task": GOOGLE, "id": "1", "lang": "py"},
            )

    def publish_raw(self, body: object, headers: dict[str, Any], **more: Any) -> None:
        with self.app.connection_for_write() as connection:
            connection.Producer().publish(
                body,
                exchange=Exchange("evergrant.work", type="direct"),
                routing_key=GOOGLE,
                headers=headers,
                **({"content_type": "application/json", "content_encoding": "utf-8"} | more),
            )


class Exploding:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def a_pickle(broker: Broker) -> None:
    broker.publish(pickle.dumps(Exploding(broker.command)), "application/x-python-serialize")


def a_pickle_that_says_json(broker: Broker) -> None:
    broker.publish(pickle.dumps(Exploding(broker.command)), "application/json")


def yaml(broker: Broker) -> None:
    body = f"!!python/object/apply:os.system ['{broker.command}']".encode()
    broker.publish(body, "application/x-yaml")


def an_unknown_task(broker: Broker) -> None:
    for name in ("os.system", "celery.backend_cleanup", "celery.chain", "renew.", "upkeep.no"):
        broker.send(name, args=[broker.command])


def a_known_task_for_another_purpose(broker: Broker) -> None:
    """Arguments are not looked at, queues mean nothing, chains and callbacks are not followed."""
    forged = {"url": "http://evil.example/", "grant_id": "1", "refresh_token": "x"}
    broker.send("renew.bitbucket", queue="events", args=["1"], kwargs=forged)
    broker.send("upkeep.revocations", args=[[1]], kwargs=forged)
    follow_up = broker.app.signature("os.system", args=[broker.command])
    broker.send(GOOGLE, link=follow_up, link_error=follow_up)
    broker.send(GOOGLE, reply_to=str(broker.pwned), countdown=1)


def a_flood(broker: Broker) -> None:
    with broker.app.connection_for_write() as connection:
        for _ in range(500):
            broker.app.send_task(GOOGLE, connection=connection, queue=GOOGLE, routing_key=GOOGLE)


def a_broadcast(broker: Broker) -> None:
    orders: dict[str, dict[str, Any]] = {
        "shutdown": {},
        "pool_shrink": {"n": 100},
        "pool_restart": {"modules": ["os"], "reload": True},
        "cancel_consumer": {"queue": GOOGLE},
        "add_consumer": {"queue": "evil"},
        "rate_limit": {"task_name": GOOGLE, "rate_limit": "1/h"},
        "time_limit": {"task_name": GOOGLE, "hard": 0.001},
        "terminate": {"signal": "KILL", "task_id": "1"},
        "revoke": {"task_id": "1", "terminate": True},
        "objgraph": {"num": 1, "max_depth": 1},
    }
    for order, arguments in orders.items():
        broker.app.control.broadcast(order, arguments=arguments)


def a_failure_that_names_a_function(broker: Broker) -> None:
    """Celery's result backends would once build the exception they are told of."""
    failed = {"exc_type": "system", "exc_module": "os", "exc_message": broker.command}
    with broker.app.connection_for_write() as connection:
        with broker.app.events.Dispatcher(connection) as events:
            events.send("task-failed", uuid="1", exception=f"os.system({broker.command!r})")
        connection.Producer(serializer="json").publish(
            {"task_id": "1", "status": "FAILURE", "result": failed}, routing_key=GOOGLE
        )


ATTACKS: list[Callable[[Broker], None]] = [
    a_pickle,
    a_pickle_that_says_json,
    yaml,
    an_unknown_task,
    a_known_task_for_another_purpose,
    a_flood,
    a_broadcast,
    a_failure_that_names_a_function,
]


@pytest.fixture(scope="module")
def product(
    _redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Broker]]:
    number = 40 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    url = f"{_redis_server.rpartition('/')[0]}/{number}"
    directory = tmp_path_factory.mktemp("forged")
    with started(directory, lifetime=8, EVERGRANT_BROKER_URL=url) as running:
        running.login("google-oauth2", "rosa")
        running.login("acme-bitbucket", "emil")
        running.wait_for(lambda: len(running.product.status()["providers"]) == 2)
        yield running, Broker(running, directory / "pwned")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_nothing_is_run_and_the_worker_goes_on(product, attack):
    running, broker = product
    worker, before = _worker(running), running.renewals()
    attack(broker)
    running.wait_for(lambda: broker.app.control.ping(timeout=1))
    assert _worker(running) == worker, running.product.log.read_text()[-3000:]
    assert not broker.pwned.exists()
    assert running.renewals() - before <= 2 * 2, "what is not due was renewed"


def test_no_message_has_the_worker_send_another(product):
    """It may publish where the forger may not: to another program's queue, say."""
    running, broker = product
    evil = Queue("evil", Exchange("evil", type="direct"), routing_key="evil")
    there = {"exchange": "evil", "routing_key": "evil"}
    follow_up = broker.app.signature("os.system", args=[broker.command], options=there)
    with broker.app.connection_for_write() as connection:
        bound = evil(connection.default_channel)
        bound.declare()
        broker.send(GOOGLE, link=[follow_up, follow_up], link_error=follow_up)
        broker.send(GOOGLE, chain=[follow_up])
        running.wait_for(lambda: not _at_work(broker))
        time.sleep(1)
        assert bound.get() is None


def test_no_message_is_put_off(product):
    """Each would be held in the worker's memory until then, beyond what it prefetches."""
    running, broker = product
    for _ in range(100):
        broker.send(GOOGLE, countdown=10**8)
    running.wait_for(lambda: not _at_work(broker))
    time.sleep(1)
    assert [held for held in broker.app.control.inspect().scheduled().values() if held] == []


HINT = {"task": GOOGLE, "id": "1", "lang": "py"}
MISSHAPEN: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "a number": (b"5", HINT, {}),
    "a list that says args": (b'["args"]', HINT, {}),
    "null": (b"null", HINT, {}),
    "an object": (b'{"args": 1, "kwargs": 2}', HINT, {}),
    "no JSON": (b"{", HINT, {}),
    "no UTF-8": (b"\xff\xfe", HINT, {}),
    "no encoding there is": (b"[[], {}, {}]", HINT, {"content_encoding": "no-such"}),
    "nothing": (b"", HINT, {}),
    "a list for a name": (b"[[], {}, {}]", {**HINT, "task": ["x"]}, {}),
    "a number for a name": (b"[[], {}, {}]", {**HINT, "task": 5}, {}),
    "no id": (b"[[], {}, {}]", {"task": GOOGLE}, {}),
    "an object for an id": (b"[[], {}, {}]", {**HINT, "id": {"a": []}}, {}),
    "an unknown task without an id": (b"[[], {}, {}]", {"task": "x"}, {}),
    "an unknown task and a number": (b"5", {"task": "x", "id": "1"}, {}),
    "nothing but a body": (b'{"task": "%s"}' % GOOGLE.encode(), {}, {}),
    "a body with a list for a name": (b'{"task": ["x"]}', {}, {}),
    "a number and no header": (b"5", {}, {}),
    "an end that is no time": (b"[[], {}, {}]", {**HINT, "expires": {"a": 1}}, {}),
    "an end in the year 99999": (b"[[], {}, {}]", {**HINT, "expires": "99999-01-01"}, {}),
    "a time that is none": (b"[[], {}, {}]", {**HINT, "eta": {"a": 1}}, {}),
    "limits that are none": (b"[[], {}, {}]", {**HINT, "timelimit": "x"}, {}),
    "retries that are none": (b"[[], {}, {}]", {**HINT, "retries": {}}, {}),
    "callbacks that are none": (b'[[], {}, {"callbacks": 5, "chain": 5, "chord": 5}]', HINT, {}),
    "packed as it is not": (b"[[], {}, {}]", {**HINT, "compression": "application/x-gzip"}, {}),
    "packed as nobody knows": (b"[[], {}, {}]", {**HINT, "compression": ["x"]}, {}),
    "a stamp that is none": (b"[[], {}, {}]", {**HINT, "stamped_headers": 5, "stamps": 5}, {}),
    "ignored or not": (b"[[], {}, {}]", {**HINT, "ignore_result": [], "group": {}}, {}),
}


@pytest.mark.parametrize("shape", MISSHAPEN)
def test_no_misshapen_message_ends_the_worker(product, shape):
    running, broker = product
    worker = _worker(running)
    body, headers, more = MISSHAPEN[shape]
    broker.publish_raw(body, headers, **more)
    broker.send(GOOGLE)
    running.wait_for(lambda: not _at_work(broker))
    assert _worker(running) == worker, running.product.log.read_text()[-3000:]


def _at_work(broker: Broker) -> bool:
    look = broker.app.control.inspect()
    return any((look.active() or {"": [1]}).values()) or any((look.reserved() or {}).values())


def test_no_result_is_read_by_anybody(product):
    _, broker = product
    assert type(broker.app.backend).__name__ == "DisabledBackend"


def test_and_it_renews_all_the_same(product):
    running, _ = product
    running.wait_for_renewals(2)
    assert running.stage.ledger()["total"]["reused"] == 0


def _worker(running: Running) -> int:
    parent = running.product.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    told = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children}
    return next(int(pid) for pid, line in told.items() if b"worker" in line)
