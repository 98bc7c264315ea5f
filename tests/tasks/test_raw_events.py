"""Whoever can publish to the exchange feeds a real worker; nothing of Celery is needed for it."""

import runpy
from pathlib import Path

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
