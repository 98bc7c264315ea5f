"""Renewals per second and CPU per renewal: the engine, the bare limit, and the hand-written task.

    python -m tests.benchmarks.bench_renewals [renewals] [in flight]

All against one PostgreSQL and one token endpoint, both in processes of their own, in one run:

    engine    this engine as deployed: claims, gate, journal, vault, audit, group commits
    bare      the same transport and ciphers, claim and UNNEST update in bulk; no safety at all
    kept      a task per token as teams write it, with a kept httpx.Client and an ORM session
    naive     the same with `httpx.post`; the body of the task alone: Celery would add its own

CPU is this process's alone. The ratios are the figures; the rest depends on the machine.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import UUID, uuid4

import httpx
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.orm import Session

from tests.servers import Postgres
from worker.domain.errors import NotFoundError
from worker.domain.exchange import ConnectionConfig, WireRequest
from worker.domain.grant import ExpiryKind, GrantId, GrantPart, GrantState
from worker.domain.secret import Secret
from worker.journal import Journal, NodeJournals, new_process_name
from worker.providers import HttpTokenEndpoint, load_catalogue
from worker.renewal import Engine as RenewalEngine
from worker.store import migrate, outbox
from worker.store.audit import AuditLog
from worker.store.claims import ClaimsRepository
from worker.store.connections import ConnectionRepository
from worker.store.engine import open_engine, writing
from worker.store.hosts import HostRepository
from worker.store.settling import SettlingRepository
from worker.store.tables import GrantRow
from worker.vault import AesVault, Keyring

ACCESS = "a" * 1100
DELAYS = (0.0, 0.05, 0.2)  # seconds a provider takes
ENTRY = "oauth2"  # an unknown provider: class F, so everything is journaled


class TokenServer(asyncio.Protocol):
    """Answers each request after a delay, with tokens never given before."""

    delay = 0.0
    number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        head, found, body = self.waiting.partition(b"\r\n\r\n")
        if not found or len(body) < int(_header(head, b"content-length")):
            return
        self.waiting = b""
        asyncio.get_running_loop().call_later(TokenServer.delay, self.answer)

    def answer(self) -> None:
        TokenServer.number += 1
        body = b'{"access_token":"%d%b","refresh_token":"r%d%b","expires_in":3600}' % (
            TokenServer.number,
            ACCESS.encode(),
            TokenServer.number,
            b"r" * 200,
        )
        self.transport.write(  # type: ignore[attr-defined]  # a stream transport
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return b"0"


def serve(told: Connection) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(TokenServer, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        while True:
            TokenServer.delay = await loop.run_in_executor(None, told.recv)
            told.send("set")

    asyncio.run(main())


@dataclass
class Bench:
    store: Engine
    vault: AesVault
    url: str
    directory: Path
    count: int
    in_flight: int

    def fill(self) -> None:
        """All grants due now, none claimed."""
        now = datetime.now(UTC)
        rows = [self._grant(n, now) for n in range(self.count)]
        with writing(self.store) as db:
            for table in ("grants", "connections", "seen_refresh_tokens", "audit", "hosts"):
                db.execute(text(f"TRUNCATE {table}"))
            db.execute(insert(GrantRow), rows)
        ConnectionRepository(self.store, self.vault).put(self._connection(now), options_seen=True)
        with self.store.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE grants"))
            connection.execute(text("CHECKPOINT"))

    def _connection(self, now: datetime) -> ConnectionConfig:
        return ConnectionConfig(
            tenant="bench",
            name="idp",
            id=None,
            strategy=ENTRY,
            client_id="client",
            client_secret=Secret("secret"),
            options={"tokenURL": self.url},
            headers={},
            overrides={},
            fetched_at=now,
            approved_host=None,
            stopped=None,
        )

    def _grant(self, n: int, now: datetime) -> dict[str, object]:
        grant = GrantId(uuid4())
        access_key, refresh_key = self.vault.new_keys("bench", grant)
        refresh = Secret(f"first-{n}-" + "r" * 200)

        def seal(secret: Secret, kind: str, key: bytes) -> bytes:
            return self.vault.seal(
                secret, tenant="bench", grant=grant, generation=0, kind=kind, key=key
            )

        return {
            "id": grant,
            "tenant": "bench",
            "connection": "idp",
            "identity_user_id": str(n),
            "part": GrantPart.USER.value,
            "user_id": f"idp|{n}",
            "strategy": ENTRY,
            "provider": ENTRY,
            "state": GrantState.ACTIVE.value,
            "renewable": True,
            "generation": 0,
            "family": 0,
            "access_token": seal(Secret(ACCESS), "at", access_key),
            "refresh_token": seal(refresh, "rt", refresh_key),
            "access_key": access_key,
            "refresh_key": refresh_key,
            "rt_fp": self.vault.fingerprint(refresh),
            "token_type": "Bearer",
            "issued_at": now - timedelta(minutes=50),
            "expiry": ExpiryKind.AT.value,
            "expires_at": now + timedelta(minutes=10),
            "logged_in_at": now,
            "rotated_before": False,
            "due_at": now - timedelta(seconds=1),
            "failures": 0,
            "fence": 0,
            "uncertain": False,
            "pull_fence": 0,
            "created_at": now,
        }


class Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Threads:
    def __init__(self, size: int) -> None:
        self._pool = ThreadPoolExecutor(size)

    async def __call__(self, call, /, *args, **kwargs):
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, lambda: call(*args, **kwargs)
        )


class NoPull:
    async def user(self, tenant: str, user_id: str) -> None:
        raise NotFoundError(user_id)

    async def connection(self, tenant: str, name: str) -> None:
        raise NotFoundError(name)


async def engine(bench: Bench) -> None:
    limits = {ENTRY: {"limits": {"concurrency": bench.in_flight, "per_second": 10000.0}}}
    process, clock, node = new_process_name(), Clock(), "bench"
    directory = bench.directory / process
    renewing = RenewalEngine(
        node=node,
        claims=ClaimsRepository(bench.store, node=node, process=process, clock=clock),
        settling=SettlingRepository(
            bench.store,
            node=node,
            process=process,
            clock=clock,
            audit=AuditLog(node),
            tell=outbox.add,
        ),
        journal=Journal(directory, process=process, offload=Threads(1)),
        journals=NodeJournals(directory, own=process),
        connections=ConnectionRepository(bench.store, bench.vault),
        catalogue=load_catalogue(limits, allow_loopback=True),
        endpoint=HttpTokenEndpoint(allow_loopback=True),
        vault=bench.vault,
        hosts=HostRepository(bench.store),
        pull=NoPull(),
        clock=clock,
        offload=Threads(4),
    )
    done = 0
    while done < bench.count:
        counts = await renewing.drain(ENTRY, budget_seconds=60)
        if not counts:
            raise SystemExit("the engine stands still")
        if set(counts) != {"renewed"}:
            print("   ", counts)
        done += counts.get("renewed", 0)
    await renewing.stop()


_CLAIM = (
    "WITH due AS MATERIALIZED (SELECT id FROM grants WHERE provider = 'oauth2' AND tenant = "
    "'bench' AND due_at <= now() AND attempt IS NULL ORDER BY due_at LIMIT 200 FOR UPDATE SKIP "
    "LOCKED) UPDATE grants SET attempt = gen_random_uuid(), fence = fence + 1 FROM due WHERE "
    "grants.id = due.id RETURNING grants.id, refresh_token, access_key, refresh_key"
)
_WRITE = (
    "UPDATE grants SET access_token = r.at, refresh_token = r.rt, generation = 1, attempt = NULL, "
    "due_at = now() + interval '45 minutes' FROM unnest(%(id)s::uuid[], %(at)b::bytea[], "
    "%(rt)b::bytea[]) AS r(id, at, rt) WHERE grants.id = r.id"
)


async def bare(bench: Bench) -> None:
    endpoint, offload = HttpTokenEndpoint(allow_loopback=True), Threads(4)
    host = bench.url.split("/")[2]
    waiting: list[object] = []
    answered: list[tuple[UUID, bytes, bytes]] = []
    written = 0

    def claim():
        with bench.store.begin() as db:
            return db.exec_driver_sql(_CLAIM).all()

    def write(group):
        ids, ats, rts = zip(*group, strict=True)
        with bench.store.begin() as db:
            db.exec_driver_sql(_WRITE, {"id": list(ids), "at": list(ats), "rt": list(rts)})

    async def runner() -> None:
        while waiting:
            row = waiting.pop()
            keys = {"tenant": "bench", "grant": row.id}
            token = bench.vault.open(
                row.refresh_token, generation=0, kind="rt", key=row.refresh_key, **keys
            )
            form = b"grant_type=refresh_token&client_id=client&refresh_token=" + token.reveal()
            outcome = await endpoint.exchange(
                WireRequest(
                    method="POST",
                    url=bench.url,
                    host=host,
                    headers={"content-type": "application/x-www-form-urlencoded"},
                    body=form,
                ),
                gate=lambda: True,
                read_timeout=30,
            )
            body = json.loads(outcome.body)
            sealed = [
                bench.vault.seal(Secret(body[name]), generation=1, kind=kind, key=key, **keys)
                for name, kind, key in (
                    ("access_token", "at", row.access_key),
                    ("refresh_token", "rt", row.refresh_key),
                )
            ]
            answered.append((row.id, sealed[0], sealed[1]))

    runners: set[asyncio.Task[None]] = set()
    empty = False
    while written < bench.count:
        if len(waiting) < bench.in_flight and not empty:
            rows = await offload(claim)
            empty = not rows
            waiting.extend(rows)
        runners = {task for task in runners if not task.done()}
        while waiting and len(runners) < bench.in_flight:
            runners.add(asyncio.create_task(runner()))
            await asyncio.sleep(0)
        if answered:
            group, answered[:] = answered[:200], answered[200:]
            await offload(write, group)
            written += len(group)
        else:
            await asyncio.sleep(0.004)
    await endpoint.close()


def by_hand(bench: Bench, count: int, post) -> None:
    """The body of a task per token: load, open, ask, seal, store, commit."""
    with Session(bench.store) as session:
        ids = session.execute(select(GrantRow.id).limit(count)).scalars().all()
    for grant in ids:
        with Session(bench.store) as session:
            row = session.get(GrantRow, grant)
            keys = {"tenant": "bench", "grant": grant}
            token = bench.vault.open(
                row.refresh_token, generation=0, kind="rt", key=row.refresh_key, **keys
            )
            form = {"grant_type": "refresh_token", "refresh_token": token.text()}
            body = post(bench.url, data=form).json()
            for name, kind, key in (
                ("access_token", "at", row.access_key),
                ("refresh_token", "rt", row.refresh_key),
            ):
                sealed = bench.vault.seal(
                    Secret(body[name]), generation=1, kind=kind, key=key, **keys
                )
                setattr(row, name, sealed)
            row.expires_at = row.due_at = datetime.now(UTC) + timedelta(hours=1)
            session.commit()


def timed(bench: Bench, count: int, work) -> tuple[float, float]:
    """(renewals per second, CPU milliseconds of this process per renewal)."""
    bench.fill()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return count / wall, cpu * 1000 / count


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    in_flight = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    root = Path(tempfile.mkdtemp(prefix="evergrant-bench-"))
    root.chmod(0o755)
    place = root / "postgres"
    place.mkdir()
    server = Postgres(place)
    server.start()
    ours, theirs = multiprocessing.Pipe()
    provider = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    provider.start()
    port = ours.recv()
    store = open_engine(server.url, pool_size=8)
    migrate.upgrade(store)
    bench = Bench(
        store=store,
        vault=AesVault(Keyring.generate()),
        url=f"http://127.0.0.1:{port}/token",
        directory=root,
        count=count,
        in_flight=in_flight,
    )
    few = max(50, count // 40)
    try:
        print(f"{count} renewals, {in_flight} in flight, load {os.getloadavg()[0]:.1f}")
        print(f"{'delay':>8} {'who':>8} {'per s':>8} {'CPU ms':>8}  CPU of the engine / theirs")
        for delay in DELAYS:
            ours.send(delay)
            ours.recv()
            measured = {
                "engine": timed(bench, count, lambda: asyncio.run(engine(bench))),
                "bare": timed(bench, count, lambda: asyncio.run(bare(bench))),
            }
            with httpx.Client(trust_env=False) as client:
                measured["kept"] = timed(bench, few, lambda: by_hand(bench, few, client.post))
            measured["naive"] = timed(bench, few, lambda: by_hand(bench, few, httpx.post))
            base = measured["engine"][1]
            for who, (rate, cpu) in measured.items():
                label = f"{delay * 1000:.0f} ms"
                print(f"{label:>8} {who:>8} {rate:8.0f} {cpu:8.3f}  {base / cpu:.2f}", flush=True)
    finally:
        store.dispose()
        provider.kill()
        server.kill()
        shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
