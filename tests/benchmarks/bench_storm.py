"""A storm of events through the real door into the inbox, and worked off the while.

    make bench BENCH=storm                  10⁵ events
    make bench BENCH=storm EVENTS=1000000   10⁶, some minutes

A tenth of them comes twice, all in one random order, in batches of a hundred (I2, I22). The web
process and the inbox are the product's; so is the processor, whose actions only count here, for
Auth0 allows no tenant as many reads a second. Ends with 1 if an event was lost or done twice.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_ingest import BATCH, body_of_events, cpu_of, posted, web_process
from tests.benchmarks.contenders import Clock, resident_mb
from tests.servers import KINDS
from worker.actions.run import Run
from worker.domain.event import Event
from worker.events import Processor
from worker.store import migrate
from worker.store.engine import open_engine, reading
from worker.store.inbox import InboxRepository

PER_USER = 20  # events
PATH = "/hooks/auth0/acme/logs"


class Counting:
    """Meets `Actions` and `Batch`: each event is done, and how often."""

    def __init__(self, events: int) -> None:
        self.done = bytearray(events)

    def batch(self, _events: Sequence[Event]) -> Counting:
        return self

    async def run(self, event: Event, _progress: Mapping[str, Any]) -> Run:
        self.done[int(event.delivery_id[-10:])] += 1
        return Run(progress={"count": "done"})


def work_off(url: str, events: int, told: Connection) -> None:
    """A worker process: until everything that was accepted is done."""
    threads = ThreadPoolExecutor(4)

    async def offload(call: Any, /, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, lambda: call(*args, **kwargs))

    actions = Counting(events)
    processor = Processor(
        inbox=InboxRepository(open_engine(url)), actions=actions, clock=Clock(), offload=offload
    )

    async def main() -> int:
        done = 0
        while done < events or not told.poll():
            done += (await processor.process(budget_seconds=5.0)).get("done", 0)
            await asyncio.sleep(0.2)
        return done

    asyncio.run(main())
    twice = sum(1 for count in actions.done if count > 1)
    told.send((actions.done.count(0), twice, time.process_time()))


def main() -> int:
    events = int(os.environ.get("EVENTS") or 100_000) // BATCH * BATCH
    place = Path(tempfile.mkdtemp(prefix="bench-"))
    place.chmod(0o755)
    server = KINDS["postgres"](place)
    server.start()
    try:
        migrate.upgrade(open_engine(server.url))
        return run(server.url, str(place / "spool"), events)
    finally:
        server.kill()


def run(url: str, directory: str, events: int) -> int:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    worker = spawn.Process(target=work_off, args=(url, events, theirs), daemon=True)
    worker.start()
    assert worker.pid is not None
    with web_process(url, directory) as (port, pid):
        memory = Memory({"web": pid, "worker": worker.pid})
        bodies, seconds, told = shuffled(events), 0.0, Counter[str]()
        while part := list(islice(bodies, max(1, events // BATCH // 10))):
            took, answers = asyncio.run(posted(port, PATH, part))
            seconds, told = seconds + took, told + answers
            memory.note()
        web_cpu = cpu_of(pid) / told.total()
        ours.send("that is all")
        began = time.perf_counter()
        lost, twice, worker_cpu = ours.recv()
        after = time.perf_counter() - began
        memory.note()
        worker.join()
    report(events, told, seconds, after, web_cpu, worker_cpu / events)
    memory.report()
    inbox = InboxRepository(open_engine(url))
    states = inbox.counts()
    print(f"lost {lost}, done twice {twice}, inbox {states}, accepted {told['accepted']:,}")
    with reading(open_engine(url)) as db:
        size = db.exec_driver_sql("SELECT pg_total_relation_size('inbox')").scalar_one()
    print(f"{size / events:.0f} bytes an event in the inbox, indexes with it")
    forget(inbox, events)
    right = (lost, twice, states, told["accepted"]) == (0, 0, {"done": events}, events)
    return 0 if right and told["duplicate"] == events // 10 else 1


def shuffled(events: int) -> Iterator[bytes]:
    """Every event, and every tenth once more, in one order that is the same each time."""
    order = array("I", range(events))
    order.extend(range(0, events, 10))
    random.Random(7).shuffle(order)
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        yield body_of_events((number, number // PER_USER) for number in numbers)


def report(
    events: int, told: Any, seconds: float, after: float, web_cpu: float, worker_cpu: float
) -> None:
    print(f"{told.total():,} deliveries of {events:,} events of {events // PER_USER:,} users")
    print(f"taken in {told.total() / seconds:,.0f}/s by the wall, {web_cpu * 1e6:.0f} CPU us each")
    print(f"worked off {after:.1f} s after the last came, {worker_cpu * 1e6:.0f} CPU us each")


class Memory:
    """What the processes hold after each tenth of it, and at the end."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._seen: list[dict[str, float]] = []

    def note(self) -> None:
        self._seen.append({name: resident_mb(pid) for name, pid in self._pids.items()})

    def report(self) -> None:
        for name in self._pids:
            print(f"{name} holds MB:", *(f"{seen[name]:.0f}" for seen in self._seen))


def forget(inbox: InboxRepository, events: int) -> None:
    """What the hourly purge does, all of it at once."""
    later, began, gone = datetime.now(UTC) + timedelta(days=1), time.perf_counter(), 0
    while taken := inbox.purge(before=later):
        gone += taken
    assert gone == events, gone
    print(f"forgotten: {gone / (time.perf_counter() - began):,.0f} rows/s")


if __name__ == "__main__":
    sys.exit(main())
