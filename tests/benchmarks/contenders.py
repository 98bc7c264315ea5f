"""Who renews in `bench_renewals`; each runs in processes of its own and tells what it cost."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.benchmarks.stage import ENTRY
from worker.bootstrap.runtime import Threads, spare_collector
from worker.domain.errors import NotFoundError
from worker.domain.exchange import Answered, WireRequest
from worker.domain.grant import GrantId
from worker.domain.secret import Secret
from worker.journal import Journal, NodeJournals, new_process_name
from worker.providers import HttpTokenEndpoint, load_catalogue
from worker.renewal import Engine as RenewalEngine
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.claims import ClaimsRepository
from worker.store.connections import ConnectionRepository
from worker.store.engine import open_engine
from worker.store.hosts import HostRepository
from worker.store.learning import LearningRepository
from worker.store.settling import SettlingRepository
from worker.store.tables import GrantRow
from worker.vault import AesVault, Keyring


@dataclass(frozen=True)
class Job:
    """What a contender is told; crosses into its process."""

    store: str  # database URL
    url: str  # token endpoint
    keyring: Path
    directory: Path  # for journals
    count: int
    in_flight: int  # per process


@dataclass(frozen=True)
class Cost:
    renewed: int
    seconds: float
    cpu_ms: float  # per renewal, of the contender's own processes
    rss_mb: float  # of the largest of them

    @property
    def rate(self) -> float:
        return self.renewed / self.seconds


Contender = Callable[[Job, Callable[[], None]], int]
"""Makes itself ready, calls `ready`, works, and returns how many it renewed."""


def run(contender: Contender, job: Job, *, processes: int = 1) -> Cost:
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(processes)]
    running = [
        spawn.Process(target=_child, args=(contender, job, theirs), daemon=True)
        for _, theirs in pipes
    ]
    for process in running:
        process.start()
    for ours, theirs in pipes:
        theirs.close()  # so that a contender that dies is noticed
        ours.recv()
    began = time.perf_counter()
    for ours, _ in pipes:
        ours.send("go")
    told: Sequence[tuple[int, float, float]] = [ours.recv() for ours, _ in pipes]
    seconds = time.perf_counter() - began
    for process in running:
        process.join()
    renewed = sum(one for one, _, _ in told)
    cpu = sum(one for _, one, _ in told) * 1000 / max(1, renewed)
    return Cost(renewed, seconds, cpu, max(one for _, _, one in told))


def _child(contender: Contender, job: Job, told: Connection) -> None:
    began = 0.0

    def ready() -> None:
        nonlocal began
        told.send("ready")
        told.recv()
        began = time.process_time()

    spare_collector()  # as every worker process does
    renewed = contender(job, ready)
    told.send((renewed, time.process_time() - began, resident_mb(os.getpid())))


def resident_mb(pid: int) -> float:
    """proc(5), the second field of statm: resident pages."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class NoPull:
    async def user(self, tenant: str, user_id: str, *, login: object = None) -> None:
        raise NotFoundError(user_id)

    async def account(self, key: object, user_id: str) -> None:
        """Nobody has it."""

    async def connection(self, tenant: str, name: str) -> None:
        raise NotFoundError(name)


def engine(job: Job, ready: Callable[[], None]) -> int:
    """This engine as deployed: claims, gate, journal, vault, audit, group commits."""
    return asyncio.run(_engine(job, ready))


def unsafe(job: Job, ready: Callable[[], None]) -> int:
    """This engine without its journal: what the journal costs."""
    return asyncio.run(_engine(job, ready, journal=NoJournal()))


class NoJournal:
    """Remembers nothing; a crash would lose what came."""

    process = new_process_name()

    async def append(self, _brought: object) -> int:
        return 0

    def mark(self, _entries: object, _counter: int) -> None:
        """Nothing to mark."""

    async def probe(self) -> bool:
        return True

    def history(self) -> list[Any]:
        return []

    def lacking(self) -> list[str]:
        return []

    async def close(self) -> None:
        """Nothing to close."""


async def _engine(
    job: Job, ready: Callable[[], None], journal: NoJournal | Journal | None = None
) -> int:
    limits = {ENTRY: {"limits": {"concurrency": job.in_flight, "per_second": 10000.0}}}
    process, clock, node = new_process_name(), Clock(), "bench"
    store = open_engine(job.store, pool_size=8)
    vault = AesVault(Keyring.load(job.keyring))
    endpoint = HttpTokenEndpoint(allow_loopback=True)
    renewing = RenewalEngine(
        node=node,
        claims=ClaimsRepository(store, node=node, process=process, clock=clock),
        settling=SettlingRepository(
            store, node=node, process=process, clock=clock, audit=AuditLog(node), tell=outbox.add
        ),
        journal=journal or Journal(job.directory, process=process, offload=Threads(2, "journal")),
        journals=NodeJournals(job.directory, own=process),
        connections=ConnectionRepository(store, vault),
        catalogue=load_catalogue(limits, allow_loopback=True),
        endpoint=endpoint,
        vault=vault,
        hosts=HostRepository(store),
        learning=LearningRepository(store, tell=outbox.add),
        pull=NoPull(),
        clock=clock,
        offload=Threads(8),
    )
    ready()
    done = 0
    while counts := await renewing.drain(ENTRY, budget_seconds=60):
        if set(counts) != {"renewed"}:
            print("   ", counts)
        done += counts.get("renewed", 0)
    await renewing.stop()
    await endpoint.close()
    return done


_CLAIM = (
    "WITH due AS MATERIALIZED (SELECT id FROM grants WHERE provider = 'oauth2' AND tenant = "
    "'bench' AND due_at <= now() AND attempt IS NULL ORDER BY due_at LIMIT 200 FOR UPDATE SKIP "
    "LOCKED) UPDATE grants SET attempt = gen_random_uuid(), fence = fence + 1 FROM due WHERE "
    "grants.id = due.id RETURNING grants.id, generation, refresh_token, access_key, refresh_key"
)
_WRITE = (
    "UPDATE grants SET access_token = r.at, refresh_token = r.rt, generation = generation + 1, "
    "rt_fp = r.fp, attempt = NULL, due_at = now() + interval '45 minutes' FROM "
    "unnest(%(id)s::uuid[], %(at)b::bytea[], %(rt)b::bytea[], %(fp)b::bytea[]) AS "
    "r(id, at, rt, fp) WHERE grants.id = r.id"
)


Post = Callable[[str, bytes], Awaitable[bytes]]


def bare(job: Job, ready: Callable[[], None]) -> int:
    """The same transport and ciphers, claims and UNNEST updates in bulk; no safety at all."""
    return asyncio.run(_bare(job, ready, _our_transport))


def bare_aiohttp(job: Job, ready: Callable[[], None]) -> int:
    """The same by the fastest client that everybody can have, as a team that knows would do it."""
    return asyncio.run(_bare(job, ready, _aiohttp))


@asynccontextmanager
async def _our_transport() -> AsyncIterator[Post]:
    endpoint = HttpTokenEndpoint(allow_loopback=True)
    headers = {"content-type": "application/x-www-form-urlencoded"}

    async def post(url: str, form: bytes) -> bytes:
        host = url.split("/")[2]
        asked = WireRequest(method="POST", url=url, host=host, headers=headers, body=form)
        outcome = await endpoint.exchange(asked, gate=lambda: True, read_timeout=30)
        assert isinstance(outcome, Answered)
        return outcome.body

    yield post
    await endpoint.close()


@asynccontextmanager
async def _aiohttp() -> AsyncIterator[Post]:
    import aiohttp  # eight megabytes, which no other contender shall carry

    headers = {"content-type": "application/x-www-form-urlencoded"}
    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=unlimited, headers=headers) as session:

        async def post(url: str, form: bytes) -> bytes:
            async with session.post(url, data=form) as answer:
                return await answer.read()

        yield post


async def _bare(
    job: Job, ready: Callable[[], None], client: Callable[[], AbstractAsyncContextManager[Post]]
) -> int:
    async with client() as post:
        return await _renew_barely(job, ready, post)


async def _renew_barely(job: Job, ready: Callable[[], None], post: Post) -> int:
    store, vault = open_engine(job.store, pool_size=8), AesVault(Keyring.load(job.keyring))
    offload = Threads(4)
    waiting: list[Any] = []
    answered: list[tuple[UUID, bytes, bytes, bytes]] = []
    written = 0

    def claim() -> Sequence[Any]:
        with store.begin() as db:
            return db.exec_driver_sql(_CLAIM).all()

    def write(group: Sequence[tuple[UUID, bytes, bytes, bytes]]) -> None:
        ids, ats, rts, fps = (list(column) for column in zip(*group, strict=True))
        with store.begin() as db:
            db.exec_driver_sql(_WRITE, {"id": ids, "at": ats, "rt": rts, "fp": fps})

    async def runner() -> None:
        while waiting:
            row = waiting.pop()
            grant, generation = GrantId(row.id), row.generation
            token = vault.open(
                row.refresh_token,
                tenant="bench",
                grant=grant,
                generation=generation,
                kind="rt",
                key=row.refresh_key,
            )
            form = b"grant_type=refresh_token&client_id=client&refresh_token=" + token.reveal()
            body = json.loads(await post(job.url, form))
            access, refresh = Secret(body["access_token"]), Secret(body["refresh_token"])
            answered.append(
                (
                    grant,
                    _sealed(vault, access, grant, generation + 1, "at", row.access_key),
                    _sealed(vault, refresh, grant, generation + 1, "rt", row.refresh_key),
                    vault.fingerprint(refresh),
                )
            )

    ready()
    runners: set[asyncio.Task[None]] = set()
    empty = False
    while written < job.count:
        if len(waiting) < job.in_flight and not empty:
            rows = await offload(claim)
            empty = not rows
            waiting.extend(rows)
        runners = {task for task in runners if not task.done()}
        while waiting and len(runners) < job.in_flight:
            runners.add(asyncio.create_task(runner()))
            await asyncio.sleep(0)
        if answered:
            group, answered[:] = answered[:200], answered[200:]
            await offload(write, group)
            written += len(group)
        else:
            await asyncio.sleep(0.004)
    return written


def _sealed(
    vault: AesVault, secret: Secret, grant: GrantId, generation: int, kind: str, key: bytes
) -> bytes:
    return vault.seal(
        secret, tenant="bench", grant=grant, generation=generation, kind=kind, key=key
    )


def kept(job: Job, ready: Callable[[], None]) -> int:
    """The body of a task per token, as teams write it, with an `httpx.Client` that is kept."""
    with httpx.Client(trust_env=False) as client:
        return _by_hand(job, ready, client.post)


def naive(job: Job, ready: Callable[[], None]) -> int:
    """The same with `httpx.post`."""
    return _by_hand(job, ready, httpx.post)


def _by_hand(job: Job, ready: Callable[[], None], post: Callable[..., httpx.Response]) -> int:
    """Load, open, ask, seal, store, commit: an ORM session per token."""
    store, vault = open_engine(job.store), AesVault(Keyring.load(job.keyring))
    with Session(store) as session:
        ids = session.execute(select(GrantRow.id).limit(job.count)).scalars().all()
    ready()
    for found in ids:
        grant = GrantId(found)
        with Session(store) as session:
            row: Any = session.get(GrantRow, grant)
            token = vault.open(
                row.refresh_token,
                tenant="bench",
                grant=grant,
                generation=row.generation,
                kind="rt",
                key=row.refresh_key,
            )
            form = {"grant_type": "refresh_token", "refresh_token": token.text()}
            body = post(job.url, data=form).json()
            access, refresh = Secret(body["access_token"]), Secret(body["refresh_token"])
            row.generation += 1
            row.access_token = _sealed(vault, access, grant, row.generation, "at", row.access_key)
            row.refresh_token = _sealed(
                vault, refresh, grant, row.generation, "rt", row.refresh_key
            )
            row.rt_fp = vault.fingerprint(refresh)
            row.expires_at = row.due_at = datetime.now(UTC) + timedelta(hours=1)
            session.commit()
    return len(ids)
