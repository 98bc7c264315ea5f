"""The settings that keep messages from being lost, doubled, read or forged, per broker."""

import pytest
from celery.worker.control import Panel

from worker.domain.errors import ConfigurationError
from worker.queue.app import celery_app, chosen_queues, looks_only, queue_of, worker_options
from worker.settings import load

BROKERS = {
    "rabbitmq": "amqp://guest:guest@127.0.0.1//",
    "redis": "redis://127.0.0.1/0",
    "files": "embedded",
    "memory": "memory://",
}


@pytest.fixture(params=BROKERS.values(), ids=BROKERS)
def app(request, tmp_path):
    settings = load({"EVERGRANT_BROKER_URL": request.param}, directory=tmp_path)
    return celery_app(settings, ["github", "waad"])


def test_messages_are_json_acknowledged_late_and_leave_no_result(app):
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.task_ignore_result
    assert app.conf.result_backend is None


def test_each_provider_has_a_queue_of_its_own(app):
    assert [queue.name for queue in app.conf.task_queues] == [
        "events",
        "upkeep",
        "renew.github",
        "renew.waad",
    ]
    assert queue_of("renew.github") == "renew.github"
    assert queue_of("events.process") == "events"
    assert queue_of("upkeep.purge") == "upkeep"


def test_rabbitmq_confirms_and_keeps_quorum_queues(tmp_path):
    settings = load({"EVERGRANT_BROKER_URL": BROKERS["rabbitmq"]}, directory=tmp_path)
    app = celery_app(settings, ["github"])
    assert app.conf.broker_transport_options["confirm_publish"]
    assert all(q.queue_arguments == {"x-queue-type": "quorum"} for q in app.conf.task_queues)


def test_a_silent_redis_cannot_hang_a_publisher(tmp_path):
    settings = load({"EVERGRANT_BROKER_URL": BROKERS["redis"]}, directory=tmp_path)
    options = celery_app(settings, []).conf.broker_transport_options
    assert options["socket_timeout"]
    assert options["socket_connect_timeout"]


def test_polling_brokers_hand_over_many_messages_a_poll(tmp_path):
    app = celery_app(load({}, directory=tmp_path), [])
    assert app.conf.worker_prefetch_multiplier >= 16
    assert 0.1 <= app.conf.broker_transport_options["polling_interval"] <= 0.2


def test_a_worker_serves_the_queues_it_is_told_to(app):
    assert chosen_queues("events, renew.waad", app) == ["events", "renew.waad"]
    assert chosen_queues("", app) == []


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("renew.gitub", "did you mean renew.github"),
        ("events,zzz", "no queue 'zzz'; there are events, upkeep and renew.ENTRY"),
    ],
)
def test_a_queue_that_there_is_not_is_named(app, told, says):
    with pytest.raises(ConfigurationError, match=says):
        chosen_queues(told, app)


def test_a_worker_neither_gossips_nor_mingles():
    options = worker_options(concurrency=4, queues=["events"])
    assert options["without_gossip"]
    assert options["without_mingle"]
    assert (options["pool"], options["queues"]) == ("threads", ["events"])


def test_remote_control_may_look_and_do_nothing_else():
    """Whoever reaches the broker could else shut workers down (`looks_only`)."""
    commands = dict.fromkeys([*Panel.meta, "ping", "stats", "enable_events"], 1)
    looks_only(commands)
    assert {"ping", "stats", "enable_events", "active_queues"} <= set(commands)
    assert not {"shutdown", "revoke", "terminate", "cancel_consumer", "objgraph"} & set(commands)
