"""Whoever can publish to the exchange feeds a real worker; nothing of Celery is needed for it."""

import json
import runpy
from pathlib import Path

import redis
from kombu import Connection, Queue

from tests.cli.conftest import TENANT, started
from worker.store.dead_messages import DeadMessageRepository
from worker.store.engine import open_engine
from worker.store.inbox import InboxRepository

DOCUMENTED = runpy.run_path(str(Path(__file__).parents[2] / "docs/examples/publish.py"))
EVENTS, logged_in = DOCUMENTED["EVENTS"], DOCUMENTED["logged_in"]
MANY = 40


def told_of(queue, connection):
    """Messages and consumers of it; None: nobody has declared it yet."""
    with connection.clone() as fresh:
        try:
            return Queue(queue)(fresh.default_channel).queue_declare(passive=True)
        except fresh.channel_errors:
            return None


def test_a_bare_producer_feeds_a_running_worker(rabbitmq_url, tmp_path):
    with started(tmp_path, EVERGRANT_BROKER_URL=rabbitmq_url) as running:
        engine = open_engine(f"sqlite:///{tmp_path / 'data/evergrant.db'}")
        inbox, dead = InboxRepository(engine), DeadMessageRepository(engine)
        with Connection(rabbitmq_url) as connection:
            # before that the queue may not be bound yet, and what is published is dropped
            running.wait_for(lambda: (told_of("evergrant.events", connection) or [0, 0, 0])[2])
            for number in range(MANY):
                user_id = f"google-oauth2|user-{number % 10}"
                logged_in(rabbitmq_url, TENANT, user_id, "google-oauth2", f"mine-{number}")
            poison = {"content_type": "application/json", "content_encoding": "utf-8"}
            key = f"auth0.{TENANT}.login"
            connection.Producer().publish(b"{", exchange=EVENTS, routing_key=key, **poison)
            running.wait_for(lambda: inbox.counts().get("done") == MANY)
            running.wait_for(lambda: [one.why for one in dead.newest()] == ["not_json"])
            running.wait_for(lambda: told_of("evergrant.events", connection)[1] == 0)
            running.wait_for(lambda: told_of("evergrant.events.dead", connection)[1] == 1)
            lost = Queue("evergrant.events.dead")(connection.default_channel)
            assert lost.get().body in ("{", b"{")
        requests = running.stage.ledger()["management_requests"]["users"]
        engine.dispose()
    assert requests < MANY


def bound(client, exchange):
    """As any kombu program on this Redis sees it."""
    return client.exists(f"_kombu.binding.{exchange}")


def test_the_same_producer_feeds_a_worker_through_redis(redis_url, tmp_path):
    """The worker's own keys have a prefix there, of which the producer knows nothing."""
    with started(tmp_path, EVERGRANT_BROKER_URL=redis_url) as running:
        engine = open_engine(f"sqlite:///{tmp_path / 'data/evergrant.db'}")
        inbox, dead = InboxRepository(engine), DeadMessageRepository(engine)
        client = redis.Redis.from_url(redis_url)
        running.wait_for(lambda: bound(client, "evergrant.events"))
        for number in range(MANY):
            user_id = f"google-oauth2|user-{number % 10}"
            logged_in(redis_url, TENANT, user_id, "google-oauth2", f"mine-{number}")
        with Connection(redis_url) as connection:
            plain = {"content_type": "application/json", "content_encoding": "utf-8"}
            key, producer = f"auth0.{TENANT}.login", connection.Producer()
            urgent = {"type": "evergrant.login", "specversion": "1.0", "id": "urgent"}
            urgent |= {"source": "urn:app", "data": {"user_id": "google-oauth2|user-1"}}
            for body, priority in ((json.dumps(urgent), 9), (b"{", 0)):
                producer.publish(
                    body, exchange=EVENTS, declare=[EVENTS], routing_key=key, priority=priority,
                    **plain,
                )  # fmt: skip
            running.wait_for(lambda: inbox.counts().get("done") == MANY + 1)
            running.wait_for(lambda: [one.why for one in dead.newest()] == ["not_json"])
            lost = Queue("evergrant.events.dead")(connection.default_channel)
            running.wait_for(lambda: client.llen("evergrant.events.dead") == 1)
            assert lost.get().body in ("{", b"{")
        running.wait_for(lambda: client.llen("evergrant.events") == 0)
        running.wait_for(lambda: not client.exists("evergrant.events.unacked"))
        assert not client.exists("unacked")  # another Celery's, whose messages are not ours
        engine.dispose()


def test_a_worker_hears_raw_events_again_after_redis_was_away(own_server, tmp_path):
    server = own_server("redis")
    with started(tmp_path, EVERGRANT_BROKER_URL=server.url) as running:
        engine = open_engine(f"sqlite:///{tmp_path / 'data/evergrant.db'}")
        inbox, client = InboxRepository(engine), redis.Redis.from_url(server.url)
        running.wait_for(lambda: bound(client, "evergrant.events"))
        server.kill()
        server.start()
        client.delete("_kombu.binding.evergrant.events")  # there again: it is declared anew
        running.wait_for(lambda: bound(client, "evergrant.events"))
        logged_in(server.url, TENANT, "google-oauth2|rosa", "google-oauth2", "after")
        running.wait_for(lambda: inbox.counts().get("done") == 1)
        engine.dispose()
