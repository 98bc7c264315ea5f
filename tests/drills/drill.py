"""The product as processes, on servers that fail, against providers that keep a ledger.

Workers are started as an operator starts them, and killed as a machine kills them. What became of
each grant the providers' ledger and our store tell together, after the weather has calmed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from tests.drills.blows import BLOWS
from tests.drills.judging import GRACE, N_AND_M, STRICT
from tests.drills.takeovers import Takeovers
from tests.servers import Server, free_port
from worker.domain.errors import WorkerError
from worker.journal import NodeJournals
from worker.rehearsal import RunningStage, StageSettings, rehearsal, webhooks, write_config
from worker.store import migrate
from worker.store.engine import open_engine, reading
from worker.store.seen import beginning
from worker.store.tables import CandidateRow, ConnectionRow, GrantRow, SeenRefreshTokenRow
from worker.vault import Keyring

LIFE = 6.0  # seconds an access token lives
_PATIENCE = 90.0


@dataclass
class Drill:
    """A stage, its product, and what befell it."""

    directory: Path
    stage: RunningStage
    environment: Mapping[str, str]
    store: Server
    broker: Server
    dice: random.Random
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    kills: int = 0
    reopened: int = 0  # connections whose verdicts were held
    blows: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._engine = open_engine(self.environment["EVERGRANT_DATABASE_URL"])
        self.takeovers = Takeovers(self._claims, {*N_AND_M, *GRACE})

    def end(self) -> None:
        self.takeovers.end()
        self._engine.dispose()

    def start_worker(self, *module: str, **environment: str) -> subprocess.Popen[bytes]:
        """As an operator does; or `module`, which becomes a worker in a way of its own."""
        started = _start(
            self.directory, {**self.environment, **environment}, "worker", module or ("worker.cli",)
        )
        self.workers.append(started)
        return started

    def kill_one(self) -> None:
        """`kill -9` in the midst of whatever it does; another is started."""
        victim = self.dice.choice(self.workers)
        self.workers.remove(victim)
        victim.kill()
        victim.wait()
        self.takeovers.killed(victim.pid)
        self.kills += 1
        self.start_worker()

    def strike(self, name: str) -> None:
        """One of `BLOWS`."""
        self.blows[name] += 1
        BLOWS[name](self)

    def wait_for_strict_exchange(self) -> None:
        """Until a token is being spent that no retry can bring back."""
        issuers = [self.stage.stage.providers[profile].issuer for profile in STRICT.values()]

        def under_way() -> bool:
            return any(one.in_flight for i in issuers for one in list(i._families.values()))

        self.wait_for("an exchange is under way", under_way)

    def renewals(self) -> int:
        return int(self.stage.ledger()["total"]["exchanges"])

    def wait_for(self, what: str, is_so: Callable[[], bool], patience: float = _PATIENCE) -> float:
        """Seconds until it is so."""
        began = time.monotonic()
        while not is_so():
            waited = time.monotonic() - began
            assert waited < patience, f"not within {patience:.0f} s: {what}\n{self._log()}"
            time.sleep(0.05)
        return time.monotonic() - began

    def rows(self) -> list[Any]:
        engine = open_engine(self.environment["EVERGRANT_DATABASE_URL"])
        try:
            with engine.connect() as connection:
                return list(connection.execute(select(GrantRow.__table__)))
        except DBAPIError:
            return []
        finally:
            engine.dispose()

    def _claims(self) -> list[Any]:
        asked = select(GrantRow.id, GrantRow.connection, GrantRow.attempt, GrantRow.claim_process)
        try:
            with reading(self._engine) as connection:
                return list(connection.execute(asked))
        except WorkerError:
            return []

    def all_renew(self) -> float:
        """Seconds until every grant that any client could have kept has renewed once more."""
        kept = {*N_AND_M, *GRACE}
        before = {
            row.id: row.renewed_at
            for row in self.rows()
            if row.connection in kept and row.state != "needs_reauth"
        }
        assert before

        def left() -> list[Any]:
            rows = self.rows()
            return [row for row in rows if row.renewed_at == before.get(row.id, 0)] or (
                [] if rows else ["the store is away"]
            )

        return self._until_none("all that can be kept renews", left)

    def all_told(self) -> float:
        """Seconds until every strict grant has renewed once more, or is called dead. It may wait
        out a read timeout, the quiet time, a circuit breaker and its own backing off.

        So many kills cost a strict connection a mass of grants, and a mass of refusals holds all
        verdicts (I8) until somebody who knows the reason says otherwise: here that is ourselves.
        """
        before = {row.id: row.renewed_at for row in self.rows() if row.connection in STRICT}

        def open_ones() -> list[Any]:
            self._reopen()
            rows = [row for row in self.rows() if row.id in before]
            return [
                row
                for row in rows
                if row.state != "needs_reauth" and row.renewed_at == before[row.id]
            ] or ([] if rows else ["the store is away"])

        return self._until_none("every verdict is spoken", open_ones, patience=700)

    def _until_none(
        self, what: str, left: Callable[[], list[Any]], patience: float = _PATIENCE
    ) -> float:
        try:
            return self.wait_for(what, lambda: not left(), patience)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{_told(left())}") from None

    def _reopen(self) -> None:
        """As an operator does, each connection whose verdicts are held."""
        asked = select(ConnectionRow.name).where(ConnectionRow.brake_until.is_not(None))
        with reading(self._engine) as connection:
            held = connection.execute(asked).scalars().all()
        for name in held:
            reopen = [sys.executable, "-m", "worker.cli", "connections", "reopen", name]
            subprocess.run(
                reopen,
                cwd=self.directory,
                env={**self.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
                check=True,
            )
            self.reopened += 1

    def rest(self) -> None:
        """The workers stop as an operator stops them: whatever was under way is in the store."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(timeout=160)
        self.workers.clear()

    def held(self) -> set[bytes]:
        """How the fingerprints begin of every refresh token that was ever durable with us."""
        engine = open_engine(self.environment["EVERGRANT_DATABASE_URL"])
        with engine.connect() as connection:
            found = set(connection.execute(select(SeenRefreshTokenRow.fp)).scalars())
            found |= set(connection.execute(select(CandidateRow.rt_fp)).scalars())
        engine.dispose()
        for place in self.directory.glob("*/journal"):  # each node's
            with NodeJournals(place, own="the judge").all_dead() as dead:
                for process in dead:
                    found |= {one.rt_fp for one in process.history() if one.rt_fp}
        return {beginning(fp) for fp in found}

    def _log(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in self.directory.glob("*.log"))


def _told(rows: Sequence[Any]) -> str:
    """How grants stand, for whoever reads a failure."""
    names = (
        *("id", "connection", "state", "due_at", "renewed_at", "not_before", "last_code"),
        *("attempt", "fence", "claim_node", "claim_process", "claimed_at", "first_claimed_at"),
        *("lease_until", "uncertain", "failures", "expires_at"),
    )
    return "\n".join(
        " ".join(f"{name}={getattr(row, name)}" for name in names if hasattr(row, name))
        for row in rows
    )


@contextmanager
def drilled(
    directory: Path, store: Server, broker: Server, *, users: int, seed: int = 1
) -> Iterator[Drill]:
    """Two workers, a scheduler and the doors; `users` accounts at each connection."""
    with ExitStack() as stack:
        stage = stack.enter_context(rehearsal(StageSettings(lifetimes={"*": LIFE}, pace=0.2)))
        port = free_port()
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("EVERGRANT_", "AUTH0_"))},
            "EVERGRANT_CONFIG": str(write_config(directory / "evergrant.toml", stage.stage)),
            "EVERGRANT_DATA_DIR": str(directory / "data"),
            "EVERGRANT_KEYRING": str(directory / "keyring.json"),
            "EVERGRANT_DATABASE_URL": store.url,
            "EVERGRANT_BROKER_URL": broker.url,
            "EVERGRANT_ALLOW_LOOPBACK": "1",
            "EVERGRANT_PORT": str(port),
            "EVERGRANT_TICK": "0.5",
            "EVERGRANT_CONFIRM_AFTER": "1",
        }
        _prepare(directory, environment)
        drill = Drill(directory, stage, environment, store, broker, random.Random(seed))
        stack.callback(drill.end)
        others = [_start(directory, environment, role) for role in ("web", "scheduler")]
        stack.callback(lambda: [_end(one) for one in [*drill.workers, *others]])
        drill.start_worker()
        drill.start_worker()
        doors = f"http://127.0.0.1:{port}"
        drill.wait_for("the doors open", lambda: _opens(f"{doors}/readyz"))
        stage.do("send_to", **webhooks(doors))
        connections = {**N_AND_M, **GRACE, **STRICT}
        for connection in connections:
            for number in range(users):
                stage.login(connection, f"{connection}-{number}")
        wanted = users * len(connections)
        drill.wait_for("every login is a grant", lambda: len(drill.rows()) == wanted)
        yield drill


def _prepare(directory: Path, environment: Mapping[str, str]) -> None:
    """The schema and the keyring."""
    (directory / "data").mkdir()
    Keyring.create(directory / "keyring.json")
    engine = open_engine(environment["EVERGRANT_DATABASE_URL"])
    migrate.upgrade(engine)
    engine.dispose()


def _start(
    directory: Path,
    environment: Mapping[str, str],
    role: str,
    module: Sequence[str] = ("worker.cli",),
) -> subprocess.Popen[bytes]:
    with (directory / f"{role}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *module, role],
            cwd=directory,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def _opens(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
