"""Processes, nodes and a network around the real engine and the real store, in virtual time.

A process dies between any two steps: from then on nothing it called ever returns, its memory is
lost and its disk is not. Everything random comes from one seed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from random import Random
from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import Engine

from tests.planted import plant, plant_connection
from tests.simulation.disks import Disk, MemoryJournals
from tests.simulation.glances import Glances
from tests.simulation.provider import FakeCatalogue, FakeEntry, Ledger, answer
from tests.simulation.virtual_time import VirtualClock
from worker.domain.attempt import Brought
from worker.domain.errors import NotFoundError, TransientError
from worker.domain.exchange import (
    Answered,
    ConnectionConfig,
    Gate,
    NotSent,
    Outcome,
    Uncertain,
    WireRequest,
)
from worker.domain.grant import GrantId, GrantKey
from worker.domain.ports import Vault
from worker.domain.secret import Secret
from worker.renewal import Engine as RenewalEngine
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.claims import ClaimsRepository
from worker.store.connections import ConnectionRepository
from worker.store.engine import open_engine
from worker.store.hosts import HostRepository
from worker.store.learning import LearningRepository
from worker.store.settling import SettlingRepository
from worker.store.tables import Base

PROVIDER = "test-idp"


@cache
def _empty_store() -> bytes:
    engine = open_engine("sqlite://")
    Base.metadata.create_all(engine)
    return content_of(engine)


def memory_store() -> Engine:
    """A new one, empty."""
    engine = open_engine("sqlite://")
    restore(engine, _empty_store())
    return engine


@cache
def _kept_store() -> Engine:
    return open_engine("sqlite://")


def same_store() -> Engine:
    """The one of the last call, emptied: its statements are compiled already."""
    restore(_kept_store(), _empty_store())
    return _kept_store()


def content_of(store: Engine) -> bytes:
    """The whole database, as a backup or a replica would have it."""
    with closing(store.raw_connection()) as connection:
        kept: bytes = connection.driver_connection.serialize()
    return kept


def restore(store: Engine, content: bytes) -> None:
    with closing(store.raw_connection()) as connection:
        connection.driver_connection.deserialize(content)


@dataclass
class Fault:
    """What the network does to one exchange."""

    connect: float = 0.001  # seconds
    travel: float = 0.05  # until the provider acts
    back: float = 0.05  # until the answer is here
    refuse: bool = False  # no connection
    lose_request: bool = False
    lose_answer: bool = False
    cut_after: float | None = None  # seconds until the connection breaks
    answer: Answered | None = None  # instead of the provider's, which is not asked
    mangle: Callable[[Answered], Answered] | None = None


class Network:
    """Meets `TokenEndpoint` for every process; `faults` decides what becomes of each exchange."""

    def __init__(self, ledgers: dict[str, Ledger]) -> None:
        self._ledgers = ledgers
        self.faults: Callable[[WireRequest], Fault] = lambda _: Fault()
        self.sent: list[tuple[float, str]] = []
        self.open: Counter[str] = Counter()
        self.most_open = 0

    async def exchange(self, request: WireRequest, *, gate: Gate, read_timeout: float) -> Outcome:
        fault, clock = self.faults(request), asyncio.get_running_loop()
        await asyncio.sleep(fault.connect)
        if fault.refuse:
            return NotSent(reason="connect")
        if not gate():
            return NotSent(reason="gate")
        token = request.body.decode()
        self.sent.append((clock.time(), token))
        self.open[request.host] += 1
        self.most_open = max(self.most_open, self.open[request.host])
        try:
            return await asyncio.wait_for(self._served(request, fault, token), read_timeout)
        except TimeoutError:
            return Uncertain(reason="timeout")
        finally:
            self.open[request.host] -= 1

    async def _served(self, request: WireRequest, fault: Fault, token: str) -> Outcome:
        loop = asyncio.get_running_loop()
        if fault.answer is not None:
            await asyncio.sleep(fault.travel + fault.back)
            return fault.answer
        acted: asyncio.Future[Answered] = loop.create_future()
        if not fault.lose_request:  # the provider acts, whatever becomes of the connection
            ledger = self._ledgers[request.host]
            loop.call_later(
                fault.travel, lambda: acted.set_result(answer(*ledger.refresh(token, loop.time())))
            )
        if fault.cut_after is not None:
            await asyncio.sleep(fault.cut_after)
            return Uncertain(reason="reset")
        told = await acted
        if fault.lose_answer:
            await asyncio.sleep(1e6)
        await asyncio.sleep(fault.back)
        return fault.mangle(told) if fault.mangle else told


class MemoryJournal:
    """Meets `Journal`; a sync takes a moment in which the process may die."""

    def __init__(self, process: Process) -> None:
        self.process = process.name
        self._owner = process
        self._disk = process.disk
        self._disk.entries[self.process] = []
        self._disk.marks[self.process] = {}
        self._disk.alive.add(self.process)

    async def append(self, brought: Brought) -> int:
        await self._owner.step("journal")
        if self._disk.full:
            raise TransientError("journal: No space left on device", code="journal_away")
        entries = self._disk.entries[self.process]
        entries.append(brought)
        number = len(entries)
        await self._owner.step("journaled")
        return number

    def mark(self, entries: Sequence[int], counter: int) -> None:
        if self._owner.dead:
            return
        self._disk.marks[self.process].update(dict.fromkeys(entries, counter))
        self._disk.counters[self.process] = counter

    async def probe(self) -> bool:
        return not self._disk.full

    def history(self, above: int = 0) -> list[Brought]:
        return self._disk.history(self.process, above=above)

    def lacking(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None


class Process:
    """One worker process on one node."""

    def __init__(self, world: World, name: str, node: str) -> None:
        self.world = world
        self.name = name
        self.node = node
        self.disk = world.disks.setdefault(node, Disk())
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.clock = _Clock(self)
        self._resume: asyncio.Future[None] | None = None
        journal = MemoryJournal(self)
        self.journals = MemoryJournals(self.disk, name)
        store = {
            "node": node,
            "process": name,
            "clock": world.clock,
            "lineage": lambda _: world.lineage,
        }
        self.claims = ClaimsRepository(world.store, **store)  # type: ignore[arg-type]
        self.engine = RenewalEngine(
            node=node,
            claims=self.claims,
            settling=SettlingRepository(
                world.store,
                audit=AuditLog(f"{node}-{name}"),
                tell=outbox.add,
                **store,  # type: ignore[arg-type]
            ),
            journal=journal,
            journals=self.journals,
            connections=ConnectionRepository(world.store, world.vault),
            catalogue=world.catalogue,
            endpoint=_Endpoint(self),
            vault=world.vault,
            hosts=HostRepository(world.store),
            learning=LearningRepository(world.store, tell=outbox.add),
            pull=world.pull,
            clock=self.clock,
            offload=self.offload,  # type: ignore[arg-type]
            random=Random(world.seed),
        )

    async def offload(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        name = call.__name__
        await self.step(name)
        if self.world.store_away and not name.startswith(("unreplayed", "replayed", "is_alive")):
            raise TransientError("store: away", code="store_away")
        result = call(*args, **kwargs)
        if self.world.unknown_commit(name):
            raise TransientError("store: connection lost at the commit", code="store_away")
        await self.step(f"{name}.done")
        return result

    async def step(self, name: str) -> None:
        """Between any two of these the process may die or stand still."""
        await self._standing()
        if self.world.at_step is not None:
            self.world.at_step(self, name)
        await asyncio.sleep(0)
        await self._standing()

    async def _standing(self) -> None:
        while self._resume is not None and not self.dead:
            await asyncio.shield(self._resume)
        if self.dead:  # killed while it stood still, too
            await _never()

    @property
    def dead(self) -> bool:
        return self.died.done()

    @property
    def paused(self) -> bool:
        return self._resume is not None

    def kill(self) -> None:
        """SIGKILL: its memory is gone, its locks are free."""
        if not self.dead:
            self.died.set_result(None)
        self.disk.alive.discard(self.name)

    def pause(self) -> None:
        """SIGSTOP."""
        if self._resume is None:
            self._resume = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        if self._resume is not None:
            self._resume.set_result(None)
            self._resume = None

    def step_clock(self, seconds: float) -> None:
        """Its wall clock, that many seconds off from now on; the monotonic one goes on."""
        self.clock.skew = timedelta(seconds=seconds)

    async def drain(self, provider: str = PROVIDER, budget: float = 300.0) -> dict[str, int]:
        return await self.engine.drain(provider, budget_seconds=budget)


class _Clock(VirtualClock):
    """A process's own: who sleeps while it dies never wakes."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._process._standing()


class _Endpoint:
    """Meets `TokenEndpoint`: the network, seen from one process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def exchange(self, request: WireRequest, *, gate: Gate, read_timeout: float) -> Outcome:
        await self._process.step("connect")

        def still_here() -> bool:
            return not self._process.dead and not self._process.paused and gate()

        outcome = await self._process.world.network.exchange(
            request, gate=still_here, read_timeout=read_timeout
        )
        await self._process.step("answer")
        return outcome


class FakePull:
    """Meets `Copies`: what Auth0's copy would bring is done by `on_user`."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.on_user: Callable[[str], None] = lambda _: None
        self.away = False

    async def account(self, _key: GrantKey, user_id: str) -> None:
        if self.away:
            raise TransientError("auth0: away")
        self.users.append(user_id)
        self.on_user(user_id)

    async def connection(self, tenant: str, name: str) -> None:
        raise NotFoundError("no admin token there")


class World:
    """One store, one provider, any number of nodes and processes."""

    def __init__(
        self, ledger: Ledger, vault: Vault, *, seed: int = 0, store: Engine | None = None
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.vault = vault
        self.store = memory_store() if store is None else store
        self.glances = Glances(self.store)
        self.ledger = ledger
        self.entry = FakeEntry(PROVIDER, ledger)
        self.catalogue = FakeCatalogue({PROVIDER: self.entry})
        self.network = Network({self.entry.host: ledger})
        self.pull: Any = FakePull()
        self.clock = VirtualClock()
        self.disks: dict[str, Disk] = {}
        self.processes: list[Process] = []
        self.store_away = False
        self.lineage = 1  # of the store: a replica that takes over begins another
        self.at_step: Callable[[Process, str], None] | None = None
        self.unknown_commit: Callable[[str], bool] = lambda _: False  # done, and nobody hears it
        plant_connection(self.store, name=PROVIDER)

    def start(self, name: str | None = None, node: str = "n1") -> Process:
        process = Process(self, name or f"p{len(self.processes)}", node)
        self.processes.append(process)
        return process

    def lives(self, process: str | None) -> bool:
        return any(one.name == process and not one.dead for one in self.processes)

    def lose_disk(self, node: str) -> None:
        """Its processes die, and their journals are gone (C15); its name goes with them."""
        for process in self.processes:
            if process.node == node and not process.dead:
                process.kill()
        self.disks.pop(node, None)

    def plant(self, rt: str = "r0", **columns: Any) -> GrantId:
        """A grant due now, whose refresh token the provider knows."""
        self.ledger.login(rt)
        columns = {"connection": PROVIDER, "provider": PROVIDER, "now": self.now()} | columns
        columns.setdefault("grant", GrantId(UUID(int=self.random.getrandbits(128))))  # spreads dues
        return plant(self.store, self.vault, rt=rt, **columns)

    def fingerprint(self, token: str) -> bytes:
        return self.vault.fingerprint(Secret(token))

    def now(self) -> datetime:
        return self.clock.now()

    def config(self) -> ConnectionConfig:
        config = ConnectionRepository(self.store, self.vault).get("acme", PROVIDER)
        assert config is not None
        return config


async def _never() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)
