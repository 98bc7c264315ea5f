"""Renewals per second and CPU per renewal: this engine, the bare limit, and tasks written by hand.

    python -m tests.benchmarks.bench_renewals [renewals] [in flight per process] [memory]

All in one run, against one store and one token endpoint, each contender in processes of its own:

    engine    this engine as deployed: claims, gate, journal, vault, audit, group commits
    bare      the same transport and ciphers, claims and UNNEST updates in bulk; no safety at all
    kept      a task per token as teams write it: a kept httpx.Client, an ORM session, Celery
    naive     the same with `httpx.post`

CPU is the contender's own. Kept and naive are a measured body and a measured empty Celery task,
added. The ratios are the figures; the rest depends on the machine and on what else it does.
With `memory` it prints what a worker process holds after ten and after a hundred thousand grants.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.benchmarks import contenders, empty_tasks
from tests.benchmarks.contenders import Cost, Job
from tests.benchmarks.stage import Provider, Stage, provider
from tests.servers import Postgres, Redis
from worker.store import migrate
from worker.store.engine import open_engine
from worker.vault import Keyring

BY_HAND = 200  # renewals of a task per token: each is dear, and alike
EMPTY_TASKS = 500


def main() -> int:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    count, in_flight = [*numbers, *(6000, 500)[len(numbers) :]]
    print(f"{count} renewals, {in_flight} in flight per process, load {os.getloadavg()[0]:.1f}")
    with _place() as root, provider() as peer:
        if "memory" in sys.argv:
            _memory(root, peer, in_flight)
        else:
            _speed(root, peer, count, in_flight)
    return 0


def _speed(root: Path, peer: Provider, count: int, in_flight: int) -> None:
    print(f"{'delay':>8} {'who':>22} {'per s':>7} {'CPU ms':>8} {'RSS MB':>7}")
    with _postgres(root) as url:
        stage, job = _stage(root, url, peer, count, in_flight)
        by_hand = _by_hand(root, stage, job, peer)
        for delay in (0.0, 0.05, 0.2):
            peer.answers_after(delay)
            bare = _run(stage, job, "bare", delay, contenders.bare)
            ours = _run(stage, job, "engine", delay, contenders.engine)
            both = _run(stage, job, "engine, 2 processes", delay, contenders.engine, processes=2)
            ratios = [
                f"{ours.cpu_ms / bare.cpu_ms:.2f} x bare, two {both.cpu_ms / bare.cpu_ms:.2f}"
            ]
            ratios += [f"1/{cpu / ours.cpu_ms:.0f} of {who}" for who, cpu in by_hand.items()]
            print(f"{'':>8} CPU of the engine: {', '.join(ratios)}", flush=True)
        stage.store.dispose()
    _embedded(root, peer, count, in_flight)


def _by_hand(root: Path, stage: Stage, job: Job, peer: Provider) -> dict[str, float]:
    """CPU of a task per token, Celery's own included."""
    peer.answers_after(0.0)
    few = replace(job, count=BY_HAND)
    with _redis(root) as url:
        celery = empty_tasks.cpu_ms(url, EMPTY_TASKS)
    print(f"{'':>8} {'an empty Celery task':>22} {'':>7} {celery:8.3f}")
    kept = _run(stage, few, "kept, body alone", 0.0, contenders.kept)
    naive = _run(
        stage, replace(few, count=BY_HAND // 4), "naive, body alone", 0.0, contenders.naive
    )
    return {"kept": kept.cpu_ms + celery, "naive": naive.cpu_ms + celery}


def _embedded(root: Path, peer: Provider, count: int, in_flight: int) -> None:
    stage, job = _stage(root, f"sqlite:///{root}/embedded.db", peer, count // 2, in_flight)
    for delay in (0.0, 0.2):
        peer.answers_after(delay)
        _run(stage, job, "engine on SQLite", delay, contenders.engine)


def _memory(root: Path, peer: Provider, in_flight: int) -> None:
    peer.answers_after(0.0)
    with _postgres(root) as url:
        for count in (10_000, 100_000):
            stage, job = _stage(root, url, peer, count, in_flight)
            _run(stage, job, f"engine, {count}", 0.0, contenders.engine)


def _run(
    stage: Stage,
    job: Job,
    who: str,
    delay: float,
    contender: Callable[[Job, Callable[[], None]], int],
    *,
    processes: int = 1,
) -> Cost:
    stage.make_due()
    # New journals each time: a worker reads those of the dead, and here that is every run before.
    journals = Path(tempfile.mkdtemp(prefix="journal-", dir=job.directory))
    cost = contenders.run(contender, replace(job, directory=journals), processes=processes)
    print(
        f"{delay * 1000:5.0f} ms {who:>22} {cost.rate:7.0f} {cost.cpu_ms:8.3f} {cost.rss_mb:7.0f}",
        flush=True,
    )
    return cost


def _stage(root: Path, url: str, peer: Provider, count: int, in_flight: int) -> tuple[Stage, Job]:
    keyring, store = root / "keyring.json", open_engine(url)
    if not keyring.exists():
        Keyring.create(keyring)
    migrate.upgrade(store)
    stage = Stage(store=store, keyring=keyring, url=peer.url, count=count)
    stage.fill()
    job = Job(
        store=url,
        url=peer.url,
        keyring=keyring,
        directory=root,
        count=count,
        in_flight=in_flight,
    )
    return stage, job


@contextmanager
def _place() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="evergrant-bench-"))
    root.chmod(0o755)  # PostgreSQL runs as somebody else
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _postgres(root: Path) -> Iterator[str]:
    server = Postgres(root)
    server.start()
    try:
        yield server.url
    finally:
        server.kill()


@contextmanager
def _redis(root: Path) -> Iterator[str]:
    server = Redis(root)
    server.start()
    try:
        yield server.url
    finally:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
