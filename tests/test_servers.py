"""The throwaway servers, since everything else rests on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kombu.connection import Connection
from redis import Redis
from sqlalchemy import Engine, text

from tests.guard import gone
from tests.servers import Server
from worker.store.engine import open_engine, reading, writing


def test_each_test_starts_with_an_empty_store(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("INSERT INTO counters (name, value) VALUES ('once', 1)"))
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM counters")) == 1


test_and_the_next_one_too = test_each_test_starts_with_an_empty_store


def test_a_redis_database_is_empty_and_keeps_an_append_only_file(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_a_rabbitmq_vhost_takes_a_message_and_gives_it_back(rabbitmq_url: str) -> None:
    with Connection(rabbitmq_url) as connection:  # type: ignore[no-untyped-call]  # kombu has none
        queue = connection.SimpleQueue("q")
        queue.put({"hello": 1})
        assert queue.get(timeout=5).payload == {"hello": 1}


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_of_ones_own_survives_its_end_with_its_data(
    own_server: Callable[[str], Server], end: str
) -> None:
    server = own_server("postgres")
    engine = open_engine(server.url)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE kept (n int)"))
    engine.dispose()
    getattr(server, end)()
    server.start()
    engine = open_engine(server.url)
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM kept")) == 0
    engine.dispose()


def test_a_server_ends_with_the_process_that_owns_it(tmp_path: Path) -> None:
    import subprocess
    import sys
    import time

    code = (
        "import sys, os, pathlib, tempfile\n"
        "from tests.servers import Redis\n"
        "server = Redis(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.guard, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    guard = int(done.stdout)
    deadline = time.monotonic() + 10
    while not gone(guard) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(guard)
    assert not (tmp_path / "redis").exists()
