"""What `bench_store` measures on: a PostgreSQL of its own, full tables, and claimers to look at."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, event

from tests.benchmarks.contenders import Clock
from tests.servers import Postgres
from worker.domain.attempt import Brought
from worker.domain.grant import Claim, ExpiryKind, Fingerprint
from worker.store import migrate, outbox
from worker.store.audit import AuditLog
from worker.store.claims import ClaimsRepository
from worker.store.engine import open_engine
from worker.store.settling import SettlingRepository

PROVIDER, TENANT, NODE, CLAIM, GROUP, LEASE = "google-oauth2", "t0", "bench", 200, 50, 60.0


class TunedPostgres(Postgres):
    """As docs/store.md asks for it. Whole pages are left out of the log: they are told apart."""

    def command(self) -> tuple[Sequence[str], dict[str, str]]:
        settings = {
            "fsync": "on",
            "shared_buffers": "512MB",
            "max_wal_size": "16GB",
            "checkpoint_timeout": "30min",
            "maintenance_work_mem": "512MB",
            "autovacuum": "off",  # we vacuum as often as the tables ask, and measure it apart
        }
        command, environment = super().command()
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        return [*command, *flags], environment


@contextmanager
def place() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="evergrant-bench-"))
    root.chmod(0o755)  # PostgreSQL runs as somebody else
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def server(root: Path) -> Iterator[TunedPostgres]:
    postgres = TunedPostgres(root)
    postgres.start()
    try:
        yield postgres
    finally:
        postgres.kill()


@dataclass(frozen=True)
class Filling:
    rows: int
    sealed: tuple[int, int]  # bytes of the access and the refresh token's ciphertext
    due: int  # of the rows, scattered over all pages
    tenants: int = 1


class Database:
    """One migrated database with grants in it."""

    def __init__(self, postgres: Postgres, name: str, filling: Filling) -> None:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        self.url = postgres.url.rpartition("/")[0] + f"/{name}"
        self.filling = filling
        migrate.upgrade(open_engine(self.url))
        self._fill()

    @cached_property
    def admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def one(self, query: str, *asked: object) -> Any:
        row = self.admin.execute(query, asked).fetchone()
        return row[0] if row else None

    def tidy(self) -> None:
        """Nobody holds a claim, nothing dead lies about."""
        self.admin.execute(_FREE_ALL)
        self.admin.execute("VACUUM ANALYZE grants")
        self.admin.execute("CHECKPOINT")

    def log_position(self) -> int:
        return int(self.one("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def size(self) -> int:
        return int(self.one("SELECT pg_total_relation_size('grants')"))

    def _fill(self) -> None:
        """Indexes come last: kept up row by row they would cost ten times as much."""
        with psycopg.connect(self.url, autocommit=True) as db:
            kept = db.execute(_INDEXES).fetchall()
            db.execute("ALTER TABLE grants DROP CONSTRAINT uq_grants_key")
            db.execute("ALTER TABLE grants DROP CONSTRAINT grants_pkey")
            for name, _ in kept:
                db.execute(f'DROP INDEX IF EXISTS "{name}"')
            db.execute(_FILL, _filled(self.filling))
            db.execute("ALTER TABLE grants ADD PRIMARY KEY (id)")
            for name, made in kept:
                if name != "grants_pkey":
                    db.execute(made)
            db.execute("VACUUM ANALYZE grants")
            db.execute("CHECKPOINT")


_INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'grants'"
_FREE_ALL = """
UPDATE grants SET attempt = NULL, lease_until = NULL
WHERE provider = 'google-oauth2' AND tenant LIKE 't%' AND due_at <= now() AND attempt IS NOT NULL
"""
# Column order as in the table does not matter; ids are spread like random ones. Due times are all
# different at every size: a claim steps over what was claimed already at its watermark's instant.
_FILL = """
INSERT INTO grants (id, tenant, connection, identity_user_id, part, user_id, strategy, provider,
  state, renewable, generation, last_generation, family, access_token, refresh_token, access_key,
  refresh_key, at_fp, rt_fp, token_type, scope, issued_at, expiry, expires_at, logged_in_at,
  rotated_before, due_at, failures, fence, uncertain, pull_fence, upstream_rt_fp, upstream_at_fp,
  upstream_login, pulled_at, created_at)
SELECT md5(n::text)::uuid, 't' || n %% %(tenants)s, 'google-oauth2', (1e20 + n)::text, 'user',
  'google-oauth2|' || (1e20 + n)::text, 'google-oauth2', 'google-oauth2', 'active', true,
  1, 1, 1, decode(repeat('ab', %(at)s), 'hex'), decode(repeat('cd', %(rt)s), 'hex'),
  decode(repeat('01', 77), 'hex'), decode(repeat('02', 77), 'hex'), sha256(('a' || n)::bytea),
  sha256(n::text::bytea), 'Bearer', 'openid email https://www.googleapis.com/auth/calendar',
  now(), 'at', now() + interval '1 hour', now(), false,
  CASE WHEN n %% %(every)s = 0
       THEN now() - interval '1 s' - n / %(every)s * 7919 %% %(due)s * interval '1 hour' / %(due)s
       ELSE now() + interval '2 hours' + (n * 7919 %% 36000) * interval '100 ms' END,
  0, 1, false, 1, sha256(n::text::bytea), sha256(('a' || n)::bytea),
  'google-oauth2|' || n || ' 3 2026-11-01', now(), now()
FROM generate_series(1, %(rows)s::bigint) AS n
"""


def _filled(filling: Filling) -> dict[str, object]:
    return {
        "rows": filling.rows,
        "every": filling.rows // filling.due if filling.due else filling.rows + 1,
        "due": max(1, filling.due),
        "at": filling.sealed[0],
        "rt": filling.sealed[1],
        "tenants": filling.tenants,
    }


def claims_of(engine: Engine) -> ClaimsRepository:
    return ClaimsRepository(engine, node=NODE, process="1", clock=Clock())


def settling_of(engine: Engine) -> SettlingRepository:
    return SettlingRepository(
        engine,
        node=NODE,
        process="1",
        clock=Clock(),
        audit=AuditLog(NODE),
        tell=outbox.add,
    )


def brought(claim: Claim, *, rotated: bool, sealed: tuple[int, int], due_in: timedelta) -> Brought:
    """New tokens, as the engine would hand them to the store."""
    now = datetime.now(UTC)
    return Brought(
        grant=claim.grant,
        tenant=claim.key.tenant,
        connection=claim.key.connection,
        provider=claim.provider,
        user_id=claim.user_id,
        attempt=claim.attempt,
        fence=claim.fence,
        parent_fp=claim.parent_fp,
        family=claim.family,
        generation=claim.next_generation,
        access_token=os.urandom(sealed[0]),
        refresh_token=os.urandom(sealed[1]),
        at_fp=Fingerprint(os.urandom(32)),
        rt_fp=Fingerprint(os.urandom(32)) if rotated else claim.parent_fp,
        token_type="Bearer",
        scope=claim.scope,
        issued_at=now,
        expiry=ExpiryKind.AT,
        expires_at=now + timedelta(hours=1),
        refresh_expires_at=None,
        due_at=now + due_in,
        not_before=None,
        logged_in_at=claim.logged_in_at,
    )


@dataclass
class Cost:
    """Of one claimer: what it claimed, and CPU on both ends of its connection."""

    claims: int = 0
    rows: int = 0
    server: float = 0.0  # seconds of CPU
    client: float = 0.0

    @property
    def server_ms(self) -> float:
        """Per claim."""
        return self.server * 1000 / max(1, self.claims)

    @property
    def client_ms(self) -> float:
        return self.client * 1000 / max(1, self.claims)


def server_cpu(pid: int) -> float:
    """Seconds of CPU of a backend (the kernel's Documentation/scheduler/sched-stats.rst)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def metered(cost: Cost, pid: int) -> Iterator[None]:
    server, client = server_cpu(pid), time.thread_time()
    yield
    cost.server += server_cpu(pid) - server
    cost.client += time.thread_time() - client


def backend(engine: Engine) -> int:
    """The process that serves an engine's only connection, once all is known that a first claim
    asks for on another one."""
    claims_of(engine).claim_due("nobody", [TENANT], each=1, lease=LEASE, since={})
    with engine.connect() as db:
        return int(db.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


class _Bare:
    """The claim as bare SQL, over the very same table and index."""

    def __init__(self, url: str) -> None:
        self._db = psycopg.connect(url)
        self.pid = self._db.info.backend_pid

    def claim(self) -> int:
        cursor = self._db.cursor(binary=True)
        rows = cursor.execute(_BARE_CLAIM).fetchall()
        self._db.commit()
        return len(rows)

    def begin(self, since: Mapping[str, datetime]) -> None:
        """It knows of no watermark."""


_BARE_CLAIM = f"""
WITH due AS MATERIALIZED (
  SELECT id FROM grants
  WHERE provider = '{PROVIDER}' AND tenant = '{TENANT}' AND due_at <= now() AND attempt IS NULL
  ORDER BY due_at LIMIT {CLAIM} FOR UPDATE SKIP LOCKED)
UPDATE grants SET attempt = gen_random_uuid(), fence = fence + 1, lease_until = now() + '1 min'
FROM due WHERE grants.id = due.id
RETURNING grants.id, generation, access_token, refresh_token, access_key, refresh_key
"""


class _Product:
    """The product's claim; `blind`: it never looks from a watermark on."""

    def __init__(self, url: str, *, blind: bool = False) -> None:
        self._blind = blind
        self._engine = open_engine(url, pool_size=1)
        self._claims = claims_of(self._engine)
        self._since: dict[str, datetime] = {}
        self.pid = backend(self._engine)

    def claim(self) -> int:
        """With a watermark as the engine keeps it; each run begins without one."""
        taken = self._claims.claim_due(
            PROVIDER, [TENANT], each=CLAIM, lease=LEASE, since=self._since
        )
        if taken and not self._blind:
            due = [one.due_at for one in taken if one.due_at]
            self._since[TENANT] = max([*due, self._since.get(TENANT, due[0])])
        return len(taken)

    def begin(self, since: Mapping[str, datetime]) -> None:
        self._since = dict(since)


_CLAIMERS: Mapping[str, Any] = {
    "product": _Product,
    "blind": partial(_Product, blind=True),
    "bare": _Bare,
}


@dataclass(frozen=True)
class Order:
    """Claim so many times, at least one of them without a watermark unless one is given."""

    url: str
    who: str  # of `_CLAIMERS`
    claims: int
    since: Mapping[str, datetime]


class Claimers:
    """Processes that claim on command, so that eight of them are truly eight."""

    def __init__(self, count: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Pipe] = []
        self._running = []
        for _ in range(count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_claimer, args=(theirs,), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._running.append(process)

    def claim(
        self,
        url: str,
        who: str,
        claims: int,
        *,
        claimers: int = 1,
        since: Mapping[str, datetime] | None = None,
    ) -> Cost:
        """Together, each `claims` times; the cost of all."""
        chosen = self._pipes[:claimers]
        for pipe in chosen:
            pipe.send(Order(url, who, claims, since or {}))
        for pipe in chosen:
            pipe.recv()  # connected and warm
        for pipe in chosen:
            pipe.send("go")
        told: list[Cost] = [pipe.recv() for pipe in chosen]
        total = Cost()
        for one in told:
            total.claims += one.claims
            total.rows += one.rows
            total.server += one.server
            total.client += one.client
        return total

    def end(self) -> None:
        for process in self._running:
            process.kill()


def _claimer(pipe: Pipe) -> None:
    known: dict[tuple[str, str], Any] = {}
    while True:
        order: Order = pipe.recv()
        key = (order.url, order.who)
        if key not in known:
            known[key] = _CLAIMERS[order.who](order.url)
        claimer = known[key]
        claimer.begin(order.since)
        claimer.claim()  # warm: the plan, the pages of the index
        pipe.send("ready")
        pipe.recv()
        cost = Cost()
        with metered(cost, claimer.pid):
            for _ in range(order.claims):
                cost.rows += claimer.claim()
                cost.claims += 1
        pipe.send(replace(cost))


@contextmanager
def traced(engine: Engine, file: Path) -> Iterator[None]:
    """Write down what crosses the wire on connections made meanwhile (libpq's PQtrace)."""
    with file.open("w") as out:

        @event.listens_for(engine, "connect")
        def _trace(connection: Any, _record: Any) -> None:
            connection.pgconn.trace(out.fileno())

        yield


def round_trips(file: Path) -> int:
    """The server says so once a round trip is over."""
    return file.read_text().count("ReadyForQuery")
