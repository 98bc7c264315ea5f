"""The embedded broker, shared by processes that start at the same moment."""

import subprocess
import sys
import threading

import pytest
from kombu import Connection, Exchange, Queue

from worker.queue.app import celery_app
from worker.settings import load


@pytest.fixture
def connect(tmp_path):
    options = celery_app(load({}, directory=tmp_path), []).conf.broker_transport_options
    return lambda: Connection("filesystem://", transport_options=options)


def test_bindings_made_at_once_are_all_kept(connect):
    """web, worker, scheduler and Flower bind their queues within milliseconds."""
    exchange = Exchange("shared", type="fanout")

    def bind(number):
        with connect() as connection:
            Queue(f"q{number}", exchange)(connection.default_channel).declare()

    threads = [threading.Thread(target=bind, args=(n,)) for n in range(16)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    with connect() as connection:
        bound = {row[2] for row in connection.default_channel.get_table("shared")}
    assert bound == {f"q{n}" for n in range(16)}


def test_a_message_is_taken_once_and_in_order(connect):
    with connect() as connection:
        queue = connection.SimpleQueue("work")
        for number in range(20):
            queue.put({"n": number})
        assert [queue.get_nowait().payload["n"] for _ in range(20)] == list(range(20))
        with pytest.raises(queue.Empty):
            queue.get_nowait()


# kombu remembers bindings per process, so each test has a queue name of its own.


def test_rubbish_in_the_folder_stops_nobody(connect, tmp_path):
    with connect() as connection:
        queue = connection.SimpleQueue("rubbish")
        (tmp_path / ".evergrant/queue/messages/0_x.rubbish.msg").write_text("not json")
        queue.put({"n": 1})
        assert queue.get(timeout=5).payload == {"n": 1}


def test_the_original_transport_and_ours_understand_each_other(connect, tmp_path):
    """A producer that knows nothing of us may use kombu's own filesystem transport."""
    folder = tmp_path / ".evergrant/queue"
    code = f"""
from kombu import Connection
with Connection("filesystem://", transport_options=dict(
    data_folder_in={str(folder / "messages")!r}, data_folder_out={str(folder / "messages")!r},
    control_folder={str(folder / "control")!r})) as connection:
    connection.SimpleQueue("plain").put({{"n": 7}})
"""
    with connect() as connection:
        queue = connection.SimpleQueue("plain")
        queue.consumer.queues[0](connection.default_channel).declare()
        subprocess.run([sys.executable, "-c", code], check=True)
        assert queue.get(timeout=5).payload == {"n": 7}
