"""Renewals per second and CPU per renewal: this engine, the bare limit, and tasks written by hand.

    python -m tests.benchmarks.bench_renewals [renewals] [in flight per process] [memory]

All in one run, against one store and one token endpoint, each contender in processes of its own:

    bare      the same transport and ciphers, claims and UNNEST updates in bulk; no safety at all
    aiohttp   the same as bare, by the fastest client that everybody can have
    engine    this engine: claims, gate, journal, vault, audit, group commits
    worker    the same as an operator starts it: worker and scheduler, by a broker
    kept      a task per token as teams write it: a kept httpx.Client, an ORM session, Celery
    naive     the same with `httpx.post`

CPU is the contender's own. Kept and naive are a measured body and a measured empty Celery task,
added. The ratios are the figures; the rest depends on the machine and on what else it does.
With `memory` it prints what a worker process holds after ten thousand and after a million grants.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.benchmarks import contenders, empty_tasks
from tests.benchmarks.contenders import Cost, Job
from tests.benchmarks.product import TICK, product
from tests.benchmarks.stage import TRUSTED, Provider, Stage, provider
from tests.benchmarks.store_stage import place
from tests.servers import Postgres, RabbitMQ, Redis
from worker.store import migrate
from worker.store.engine import open_engine
from worker.vault import Keyring

DELAYS = (0.0, 0.05, 0.2)  # seconds the provider takes
BY_HAND = 100  # renewals of a task per token: each is dear, and alike
# Times as many, where what happens once would weigh: connections are opened, and a worker hears up
# to a tick late that something is due.
LONG_DRAIN = 3
EMPTY_TASKS = 500
ROUNDS = 3
STEADY = 500  # renewals due each second


def main() -> int:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    count, in_flight = [*numbers, *(10_000, 500)[len(numbers) :]]
    print(f"{count} renewals, {in_flight} in flight per process, load {os.getloadavg()[0]:.1f}")
    with place() as root, provider(root) as peer:
        if "memory" in sys.argv:
            _memory(root, peer, in_flight)
        else:
            _speed(root, peer, count, in_flight)
    return 0


def _speed(root: Path, peer: Provider, count: int, in_flight: int) -> None:
    print(f"{'delay':>8} {'who':>22} {'per s':>7} {'CPU ms':>8} {'RSS MB':>7}")
    with _server(Postgres, root) as url, _server(Redis, root) as redis:
        celery = empty_tasks.cpu_ms(redis, EMPTY_TASKS)
        print(f"{'':>8} {'an empty Celery task':>22} {'':>7} {celery:8.3f}")
        stage, job = _stage(root, url, peer.url, count, in_flight)
        _run(stage, job, "engine, warming up", 0.0, contenders.engine)
        for delay in DELAYS:
            _side_by_side(stage, job, peer, delay, celery)
        _what_costs(stage, job, peer)
        with _server(RabbitMQ, root) as rabbitmq:
            stage, job = _stage(root, url, peer.url, count * LONG_DRAIN, in_flight)
            for name, broker in (("Redis", redis), ("RabbitMQ", rabbitmq)):
                _product(root / name, name, broker, stage, job, peer)
        _secured(root, url, peer, count * LONG_DRAIN, in_flight)
    _embedded(root, peer, count, in_flight)


def _side_by_side(stage: Stage, job: Job, peer: Provider, delay: float, celery: float) -> None:
    peer.answers_after(delay)
    by_hand = _by_hand(stage, job, delay, celery)
    bare = _run(stage, job, "bare", delay, contenders.bare)
    aiohttp = _run(stage, job, "bare, by aiohttp", delay, contenders.bare_aiohttp)
    ours = _run(stage, job, "engine", delay, contenders.engine)
    both = _run(stage, job, "engine, 2 processes", delay, contenders.engine, processes=2)
    for what, yardstick in (("bare by aiohttp", aiohttp), ("bare", bare)):
        one, two = (yardstick.cpu_ms / found.cpu_ms for found in (ours, both))
        _say(f"engine: {one:.0%} of what {what} does with the same CPU, two {two:.0%}")
    _say(", ".join(f"1/{cpu / ours.cpu_ms:.0f} of {who}" for who, cpu in by_hand.items()))


def _what_costs(stage: Stage, job: Job, peer: Provider) -> None:
    """The journal, and many at once; medians of three, in turn."""
    peer.answers_after(0.05)
    ways = {
        "30 in flight": (contenders.engine, replace(job, in_flight=30)),
        "200 in flight": (contenders.engine, replace(job, in_flight=200)),
        "without journal": (contenders.unsafe, replace(job, in_flight=200)),
    }
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, (contender, with_) in ways.items():
            costs[way].append(_run(stage, with_, way, 0.05, contender))
    cpu = {way: statistics.median(one.cpu_ms for one in found) for way, found in costs.items()}
    rate = {way: statistics.median(one.rate for one in found) for way, found in costs.items()}
    _say(f"CPU at 200 in flight: {cpu['200 in flight'] / cpu['30 in flight']:.2f} x that at 30")
    with_it, without = "200 in flight", "without journal"
    _say(
        f"the journal: {cpu[with_it] / cpu[without] - 1:+.0%} CPU, "
        f"{rate[with_it] / rate[without] - 1:+.0%} renewals per second"
    )
    peer.answers_after(0.2)


def _product(
    directory: Path, name: str, broker: str, stage: Stage, job: Job, peer: Provider
) -> None:
    with product(directory, job, broker) as running:
        running.drains(stage)  # connects, imports, learns how much the host bears
        for delay in DELAYS:
            peer.answers_after(delay)
            _line(f"worker, {name}", delay, running.drains(stage))
        late = running.keeps_up(stage, STEADY)
        ticks = late[int(len(late) * 0.99)] / TICK
        _say(f"lateness at {STEADY}/s: p50 {late[len(late) // 2]:.2f} s, p99 {ticks:.1f} ticks")
    with product(directory / "two", job, broker, workers=2) as running:
        running.drains(stage)
        _line(f"2 workers, {name}", delay, running.drains(stage))


def _secured(root: Path, url: str, peer: Provider, count: int, in_flight: int) -> None:
    """The same engine over TLS and plain; each opens all its connections anew."""
    os.environ["SSL_CERT_FILE"] = str(root / TRUSTED)  # for the processes started from here on
    costs: dict[str, list[float]] = {"plain": [], "TLS": []}
    for address, way in ((peer.url, "plain"), (peer.secure_url, "TLS")):
        stage, job = _stage(root, url, address, count, in_flight)
        for _ in range(ROUNDS):
            costs[way].append(_run(stage, job, f"engine, {way}", 0.2, contenders.engine).cpu_ms)
    plain, secure = (statistics.median(costs[way]) for way in ("plain", "TLS"))
    _say(f"TLS: {secure / plain:.2f} x plain")


def _by_hand(stage: Stage, job: Job, delay: float, celery: float) -> dict[str, float]:
    """CPU of a task per token, Celery's own included; the rate is of one that does no other."""
    few, fewer = (replace(job, count=BY_HAND // share) for share in (1, 4))
    kept = _run(stage, few, "kept, body alone", delay, contenders.kept)
    naive = _run(stage, fewer, "naive, body alone", delay, contenders.naive)
    return {"kept": kept.cpu_ms + celery, "naive": naive.cpu_ms + celery}


def _embedded(root: Path, peer: Provider, count: int, in_flight: int) -> None:
    stage, job = _stage(root, f"sqlite:///{root}/embedded.db", peer.url, count // 2, in_flight)
    for delay in DELAYS:
        peer.answers_after(delay)
        _run(stage, job, "engine on SQLite", delay, contenders.engine)


def _memory(root: Path, peer: Provider, in_flight: int) -> None:
    peer.answers_after(0.0)
    with _server(Postgres, root) as url:
        for count in (10_000, 1_000_000):
            stage, job = _stage(root, url, peer.url, count, in_flight)
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
    _line(who, delay, cost)
    return cost


def _line(who: str, delay: float, cost: Cost) -> None:
    print(
        f"{delay * 1000:5.0f} ms {who:>22} {cost.rate:7.0f} {cost.cpu_ms:8.3f} {cost.rss_mb:7.0f}",
        flush=True,
    )


def _say(ratio: str) -> None:
    print(f"{'':>8} {ratio}", flush=True)


def _stage(root: Path, url: str, address: str, count: int, in_flight: int) -> tuple[Stage, Job]:
    keyring, store = root / "keyring.json", open_engine(url)
    if not keyring.exists():
        Keyring.create(keyring)
    migrate.upgrade(store)
    stage = Stage(store=store, keyring=keyring, url=address, count=count)
    stage.fill()
    job = Job(
        store=url,
        url=address,
        keyring=keyring,
        directory=root,
        count=count,
        in_flight=in_flight,
    )
    return stage, job


@contextmanager
def _server(kind: type[Postgres] | type[Redis] | type[RabbitMQ], root: Path) -> Iterator[str]:
    server = kind(root)
    server.start()
    try:
        yield server.url
    finally:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
