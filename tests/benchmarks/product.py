"""The product as an operator starts it, worker and scheduler, by a broker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.contenders import Cost, Job, resident_mb
from tests.benchmarks.empty_tasks import cpu_of_tree
from tests.benchmarks.stage import ENTRY, Stage

TICK = 1.0  # seconds
_CONFIG = """
[tenants.bench]
domain = "bench.auth0.example"
base_url = "http://127.0.0.1:9"
client_id = "m2m"
client_secret = "unused"

[providers.{entry}.limits]
concurrency = {in_flight}
per_second = 10000.0
"""


@dataclass
class Product:
    scheduler: subprocess.Popen[bytes]
    workers: Sequence[subprocess.Popen[bytes]]

    def cpu_seconds(self) -> float:
        return sum(cpu_of_tree(one.pid) for one in (self.scheduler, *self.workers))

    def drains(self, stage: Stage) -> Cost:
        """All that is due, from the moment it is."""
        stage.make_due()
        before, began = self.cpu_seconds(), time.perf_counter()
        while stage.left():
            time.sleep(0.1)
        used, seconds = self.cpu_seconds() - before, time.perf_counter() - began
        memory = max(resident_mb(one.pid) for one in self.workers)
        return Cost(stage.count, seconds, used * 1000 / stage.count, memory)

    def keeps_up(self, stage: Stage, per_second: float) -> list[float]:
        """Seconds of lateness of each, where so many fall due each second."""
        seconds = stage.count / per_second
        due = stage.spread(seconds)
        time.sleep(seconds + 2)
        while stage.left():
            time.sleep(0.1)
        return stage.lateness(due)


@contextmanager
def product(directory: Path, job: Job, broker: str, *, workers: int = 1) -> Iterator[Product]:
    """Started, warm, and with nothing due."""
    (directory / "data").mkdir(parents=True)
    config = directory / "evergrant.toml"
    config.write_text(_CONFIG.format(entry=ENTRY, in_flight=job.in_flight))
    config.chmod(0o600)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("EVERGRANT_", "AUTH0_"))},
        "EVERGRANT_CONFIG": str(config),
        "EVERGRANT_DATA_DIR": str(directory / "data"),
        "EVERGRANT_KEYRING": str(job.keyring),
        "EVERGRANT_DATABASE_URL": job.store,
        "EVERGRANT_BROKER_URL": broker,
        "EVERGRANT_ALLOW_LOOPBACK": "1",
        "EVERGRANT_TICK": str(TICK),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    roles = ["scheduler", *["worker"] * workers]
    started = [_start(directory, environment, role) for role in roles]
    try:
        yield Product(started[0], started[1:])
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _start(directory: Path, environment: dict[str, str], role: str) -> subprocess.Popen[bytes]:
    with (directory / f"{role}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "worker.cli", role],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
