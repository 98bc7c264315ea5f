"""What Celery itself costs per task: an empty one, on Redis, published and worked off."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from celery import Celery

_REDIS = "EVERGRANT_BENCH_REDIS"
app = Celery("empty", broker=os.environ.get(_REDIS, "redis://"))
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=16)


@app.task  # type: ignore[untyped-decorator]  # Celery has no types
def empty(_grant: str) -> None:
    """As a task per token is called: with the grant's id."""


def cpu_ms(url: str, tasks: int) -> float:
    """CPU per task in milliseconds: the publisher's, and the worker's with its children."""
    app.conf.broker_url = url
    environment = {**os.environ, _REDIS: url}
    command = [sys.executable, "-m", "celery", "-A", "tests.benchmarks.empty_tasks", "worker"]
    options = ["--concurrency=1", "--loglevel=ERROR", "--without-gossip", "--without-mingle"]
    worker = subprocess.Popen(
        [*command, *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with app.connection_for_write() as connection:
            _publish_and_wait(connection, 20)  # the worker is up, and everything is imported
            before = time.process_time() + cpu_of_tree(worker.pid)
            _publish_and_wait(connection, tasks)
            used = time.process_time() + cpu_of_tree(worker.pid) - before
    finally:
        worker.terminate()
        worker.wait()
    return used * 1000 / tasks


def _publish_and_wait(connection: Any, tasks: int) -> None:
    for number in range(tasks):
        eta = datetime.now(UTC) + timedelta(milliseconds=1)  # as the schedule of such a worker
        empty.apply_async((str(number),), eta=eta, connection=connection)
    client = connection.default_channel.client
    while client.llen("celery") or client.hlen("unacked"):
        time.sleep(0.1)


def cpu_of_tree(pid: int) -> float:
    return _cpu(pid) + sum(cpu_of_tree(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (thread / "children").read_text().split())
    return found


def _cpu(pid: int) -> float:
    """Seconds of CPU, user and system (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
