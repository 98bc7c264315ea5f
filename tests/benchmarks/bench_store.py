"""The store alone, through the product's own repositories, beside bare SQL on the same tables.

    make bench BENCH=store                  2·10⁵ grants, about two minutes
    make bench BENCH=store ROWS=10000000    the claims at 10⁵ and 10⁷
    make bench BENCH=store ROWS=10000000 PARTS=claims SEALED="1500 1500"    … with large tokens
    make bench BENCH=store PARTS="layout idle"

Figures are CPU of the PostgreSQL backend (and of the client where it says so), bytes of the
write-ahead log and counts; wall time on a shared machine says little. Each ratio is of medians of
rounds taken in turns in one run. Over a million rows the ciphertexts are small, to spare the disk,
unless SEALED names their sizes: 10⁷ rows with large ones take 50 GB and a quarter of an hour.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
from sqlalchemy import Engine

from tests.benchmarks import store_embedded
from tests.benchmarks.store_stage import (
    CLAIM,
    GROUP,
    LEASE,
    PROVIDER,
    TENANT,
    Claimers,
    Cost,
    Database,
    Filling,
    TunedPostgres,
    backend,
    brought,
    claims_of,
    metered,
    place,
    round_trips,
    server,
    settling_of,
    traced,
)
from worker.bootstrap.clock import SystemClock
from worker.bootstrap.schedule import StoreSchedule
from worker.bootstrap.tick import tick
from worker.domain.attempt import Fate
from worker.domain.grant import Claim
from worker.store import migrate
from worker.store.engine import open_engine

ROUNDS, CLAIMS, CLAIMERS, PASSED = 5, 12, 8, 40_000
FULL, SMALL = (1500, 1500), (100, 100)


def main() -> int:
    rows = int(os.environ.get("ROWS") or 200_000)
    parts = (os.environ.get("PARTS") or " ".join(PARTS)).split()
    print(f"{rows:,} grants, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    with place() as root, server(root) as postgres:
        for part in parts:
            PARTS[part](root, postgres, rows)
    return 0


def claims(_root: Path, postgres: TunedPostgres, rows: int) -> None:
    """A claim of 200 due rows: however many grants there are, and with seven others claiming."""
    told = [int(size) for size in os.environ.get("SEALED", "").split()]
    sealed = (told[0], told[1]) if told else FULL if rows <= 1_000_000 else SMALL
    sizes = [size for size in (rows // 100, rows // 10, rows) if size >= 20_000]
    if rows > 1_000_000:
        del sizes[1]  # filling takes most of the time
    due = min(CLAIMERS * (CLAIMS + 1) * CLAIM, sizes[0])
    databases = {}
    for size in sizes:
        began = time.perf_counter()
        databases[size] = Database(postgres, f"claims{size}", Filling(size, sealed, due))
        gib = databases[size].size() / 2**30
        print(f"   filled {size:,} ({gib:.1f} GiB) in {time.perf_counter() - began:.0f} s")
    claimers = Claimers(CLAIMERS)
    one: dict[int, list[Cost]] = {size: [] for size in sizes}
    bare: dict[int, list[Cost]] = {size: [] for size in sizes}
    many: dict[int, list[Cost]] = {size: [] for size in sizes}
    try:
        for _ in range(ROUNDS):
            for size, database in databases.items():
                for figures, who, count in (
                    (one, "product", 1),
                    (bare, "bare", 1),
                    (many, "product", CLAIMERS),
                ):
                    database.tidy()
                    each = min(CLAIMS, due // CLAIM // count - 1)
                    figures[size].append(claimers.claim(database.url, who, each, claimers=count))
    finally:
        claimers.end()
    for size in sizes:
        print(
            f"   claim of {CLAIM} at {size:>10,}: {_ms(one[size]):.2f} ms of the server's CPU, "
            f"bare SQL {_ms(bare[size]):.2f}, of {CLAIMERS} claimers {_ms(many[size]):.2f}; "
            f"client {statistics.median(c.client_ms for c in one[size]):.2f}"
        )
    first, last = sizes[0], sizes[-1]
    _goal(f"claim at {last:,} / at {first:,}", _ms(one[last]) / _ms(one[first]), 1.3)
    _goal("the same of bare SQL", _ms(bare[last]) / _ms(bare[first]))
    _goal(f"claim / bare SQL at {last:,}", _ms(one[last]) / _ms(bare[last]), 1.2)
    _goal(f"{CLAIMERS} claimers / one at {last:,}", _ms(many[last]) / _ms(one[last]), 2.0)


def snapshot(_root: Path, postgres: TunedPostgres, rows: int) -> None:
    """Beside a transaction left open, whose snapshot keeps what was renewed since in the index."""
    passed = min(PASSED, rows // 25)
    filling = Filling(rows, FULL, passed + 3 * ROUNDS * CLAIMS * CLAIM)
    database = Database(postgres, "snapshot", filling)
    engine = open_engine(database.url, pool_size=1)
    claimers = Claimers(1)
    try:
        fresh = [claimers.claim(database.url, "product", CLAIMS) for _ in range(ROUNDS)]
        database.tidy()
        look = [_look(database) for _ in range(ROUNDS)]
        with psycopg.connect(database.url) as old:
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT count(*) FROM tenants")
            since: dict[str, datetime] = {}
            for _ in range(passed // CLAIM):
                taken = _claimed(engine, since)
                since = {TENANT: max(c.due_at for c in taken if c.due_at)}
                _settle(engine, taken, FULL, rotated=False, due_in=timedelta(minutes=45))
            beside = [
                claimers.claim(database.url, "product", CLAIMS, since=since) for _ in range(ROUNDS)
            ]
            blind = [claimers.claim(database.url, "blind", 2) for _ in range(ROUNDS)]
            look_beside = [_look(database) for _ in range(ROUNDS)]
    finally:
        claimers.end()
    print(f"   {passed:,} rows renewed beside an old snapshot")
    _goal("claim beside it / fresh", _ms(beside) / _ms(fresh), 1.3)
    _goal("the same without its watermark / fresh", _ms(blind) / _ms(fresh))
    one, other = statistics.median(look), statistics.median(look_beside)
    _goal(f"a look for due and unfinished work ({other * 1000:.2f} ms) / fresh", other / one)


def layout(root: Path, postgres: TunedPostgres, rows: int) -> None:
    """What a renewal writes: log, dead space, heap-only updates, statements, fsyncs."""
    for name, sealed in (("2 x 1500 B", FULL), ("1100 + 230 B", (1100, 230))):
        for rotated in (False, True):
            told = "rotating" if rotated else "the refresh token stays"
            print(f"   ciphertexts of {name}, {told}")
            count = min(rows // 20, 100_000)
            filling = Filling(count, sealed, count)
            database = Database(postgres, f"layout{sealed[0]}{rotated}", filling)
            _renewed_ten_times(root, database, rotated)


def _renewed_ten_times(root: Path, database: Database, rotated: bool) -> None:
    """In the order they fall due; what is renewed falls due again behind all the others."""
    count, sealed, trace = database.filling.rows, database.filling.sealed, root / "trace"
    size, syncs = database.size(), _syncs(database)
    engine = open_engine(database.url, pool_size=1)
    with traced(engine, trace):
        log = _Log(database, backend(engine))
        for _ in range(10 * count // CLAIM):
            taken = log.told("claim", lambda: _claimed(engine))
            log.told("commit", partial(_settle, engine, taken, sealed, rotated=rotated))
            log.vacuum(2 * len(taken))
    renewed, written = 10 * count, sum(sealed)
    claim, commit = (log.bytes[what] / renewed for what in ("claim", "commit"))
    print(f"     log per renewal: claim {claim:.0f} B, commit {commit:.0f} B")
    _goal("log / ciphertext written", (claim + commit) / written, 1.6 if written >= 3000 else 1.8)
    _goal("table and indexes after ten renewals / before", database.size() / size, 1.3)
    for what, cost in log.cost.items():
        ours, theirs = (1e6 * seconds / renewed for seconds in (cost.client, cost.server))
        print(f"     CPU per renewal: {what} {theirs:.0f} us of the server, {ours:.0f} us of ours")
    print(f"     {database.size() / count:.0f} bytes a grant, indexes and room for updates with it")
    hot, updates = database.admin.execute(_UPDATES).fetchone() or (0, 1)
    print(f"     heap-only updates: {100 * hot / updates:.0f} % (claims are half of all)")
    print(
        f"     in groups of {GROUP}, per renewal: {round_trips(trace) / renewed:.3f} round trips, "
        f"{(_syncs(database) - syncs) / renewed:.4f} fsyncs"
    )


class _Log:
    """What is written to the write-ahead log and what the server works for it, by kind."""

    def __init__(self, database: Database, pid: int) -> None:
        self._database, self._pid = database, pid
        self._limit, self._dead = _vacuum_after(database), 0
        self.bytes = {"claim": 0, "commit": 0}
        self.cost = {"claim": Cost(), "commit": Cost()}

    def told(self, what: str, work: Callable[[], Sequence[Claim]]) -> Sequence[Claim]:
        before = self._database.log_position()
        with metered(self.cost[what], self._pid):
            result = work()
        self.bytes[what] += self._database.log_position() - before
        return result

    def vacuum(self, dead: int) -> None:
        """As often as autovacuum would come."""
        self._dead += dead
        if self._dead > self._limit:
            self._database.admin.execute("VACUUM grants")
            self._dead = 0


def _syncs(database: Database) -> int:
    return int(database.one("SELECT wal_sync FROM pg_stat_wal"))


_UPDATES = "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'grants'"


def _vacuum_after(database: Database) -> int:
    """Dead rows at which the table's settings let autovacuum come."""
    options = database.one("SELECT reloptions FROM pg_class WHERE relname = 'grants'") or []
    told = dict(option.split("=") for option in options)
    scale = float(told.get("autovacuum_vacuum_scale_factor", 0.2))
    return int(told.get("autovacuum_vacuum_threshold", 50)) + int(scale * database.filling.rows)


def _claimed(engine: Engine, since: Mapping[str, datetime] | None = None) -> Sequence[Claim]:
    return claims_of(engine).claim_due(
        PROVIDER, [TENANT], each=CLAIM, lease=LEASE, since=since or {}
    )


def _settle(
    engine: Engine,
    taken: Sequence[Claim],
    sealed: tuple[int, int],
    *,
    rotated: bool,
    due_in: timedelta = -timedelta(seconds=1),
) -> Sequence[Claim]:
    settling = settling_of(engine)
    for start in range(0, len(taken), GROUP):
        group = [
            brought(claim, rotated=rotated, sealed=sealed, due_in=due_in)
            for claim in taken[start : start + GROUP]
        ]
        fates = settling.settle(group).fates.values()
        assert list(fates) == [Fate.APPLIED] * len(group)
    return taken


def idle(_root: Path, postgres: TunedPostgres, rows: int) -> None:
    """A tick with nothing to do: what the scheduler asks every five seconds."""
    for tenants in (1, 1000):
        filling = Filling(rows, SMALL, 0, tenants)
        database = Database(postgres, f"idle{tenants}", filling)
        costs = [_tick(database) for _ in range(ROUNDS)]
        seconds = statistics.median(costs)
        share = seconds / 5 * 100
        _goal(f"% of a core, tick of 5 s, {rows:,} grants of {tenants} tenants", share, 1.0)


class _NoHints:
    def renew(self, provider: str) -> None:
        raise AssertionError(provider)

    def events(self) -> None: ...

    def task(self, name: str) -> None: ...


def _tick(database: Database) -> float:
    """CPU seconds of one tick, ours and the server's."""
    engine = open_engine(database.url, pool_size=1)
    schedule = StoreSchedule(engine, SystemClock())
    pid = backend(engine)
    tick(schedule, _NoHints(), datetime.now(UTC))
    cost = Cost()
    with metered(cost, pid):
        for _ in range(20):
            tick(schedule, _NoHints(), datetime.now(UTC))
    engine.dispose()
    return (cost.server + cost.client) / 20


def embedded(root: Path, _postgres: TunedPostgres, rows: int) -> None:
    """SQLite: claim and commit through the product, beside the same in a bare sqlite3 loop."""
    count = min(rows // 20, 20_000)
    engine = open_engine(f"sqlite:///{root}/embedded.db")
    migrate.upgrade(engine)
    path = str(root / "embedded.db")
    store_embedded.plant(path, count, FULL)
    ours, bare = [], []
    for _ in range(ROUNDS):
        ours.append(_timed(lambda: _renew_embedded(engine, count)))
        bare.append(_timed(lambda: store_embedded.renew_bare(path, count, FULL)))
    one, other = (statistics.median(costs) / count * 1e6 for costs in (ours, bare))
    print(f"   SQLite, synchronous=FULL, claims of {CLAIM}, commits of {GROUP}")
    print(f"     CPU per renewal: {one:.0f} us, bare loop {other:.0f} us")
    _goal("product / bare loop", one / other)


def _timed(work: Callable[[], None]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _renew_embedded(engine: Engine, count: int) -> None:
    renewed = 0
    while renewed < count:
        taken = _claimed(engine)
        renewed += len(_settle(engine, taken, FULL, rotated=False))


def _look(database: Database) -> float:
    """CPU seconds of the server for one look at which tenants have due work."""
    engine = open_engine(database.url, pool_size=1)
    repository = claims_of(engine)
    pid = backend(engine)
    repository.due()
    cost = Cost()
    with metered(cost, pid):
        for _ in range(10):
            since = {work.tenant: work.since for work in repository.due()}
            repository.unfinished(PROVIDER, [TENANT], [], since)
    engine.dispose()
    return cost.server / 10


def _ms(costs: Sequence[Cost]) -> float:
    return statistics.median(cost.server_ms for cost in costs)


def _goal(what: str, figure: float, goal: float | None = None) -> None:
    verdict = "" if goal is None else f"  (goal <= {goal}{'' if figure <= goal else ': MISSED'})"
    print(f"     {what}: {figure:.2f}{verdict}", flush=True)


PARTS: Mapping[str, Callable[[Path, TunedPostgres, int], None]] = {
    "claims": claims,
    "snapshot": snapshot,
    "layout": layout,
    "idle": idle,
    "embedded": embedded,
}


if __name__ == "__main__":
    sys.exit(main())
