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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from tests.servers import Server, free_port
from worker.domain.secret import Secret
from worker.journal import NodeJournals
from worker.rehearsal import RunningStage, StageSettings, rehearsal, webhooks, write_config
from worker.rehearsal.minting import Parsed
from worker.store import migrate
from worker.store.engine import open_engine
from worker.store.tables import CandidateRow, GrantRow, SeenRefreshTokenRow
from worker.vault import AesVault, Keyring

# Connection to its provider's profile, by what a lost answer means there (docs/protocol.md).
KEPT = {  # N, M, and G with a grace that outlasts a restart
    "google-oauth2": "google-oauth2",
    "acme-entra": "waad",
    "acme-bitbucket": "bitbucket",
}
STRICT = {"github": "github-app", "acme-tracker": "oauth2"}  # S and F
LIFE = 6.0  # seconds an access token lives
_PATIENCE = 90.0


@dataclass
class Drill:
    """A stage, its product, and what befell it."""

    directory: Path
    stage: RunningStage
    environment: Mapping[str, str]
    dice: random.Random
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    kills: int = 0

    def start_worker(self) -> None:
        self.workers.append(_start(self.directory, self.environment, "worker"))

    def kill_one(self) -> None:
        """`kill -9` in the midst of whatever it does; another is started."""
        victim = self.dice.choice(self.workers)
        self.workers.remove(victim)
        victim.kill()
        victim.wait()
        self.kills += 1
        self.start_worker()

    def wait_for_strict_exchange(self) -> None:
        """Until a token is being spent that no retry can bring back."""
        issuers = [self.stage.stage.providers[profile].issuer for profile in STRICT.values()]

        def under_way() -> bool:
            return any(one.in_flight for i in issuers for one in list(i._families.values()))

        self.wait_for("an exchange is under way", under_way)

    def freeze_one(self, seconds: float) -> None:
        """SIGSTOP: what it was about to do, it does later."""
        victim = self.dice.choice(self.workers)
        victim.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        victim.send_signal(signal.SIGCONT)

    def renewals(self) -> int:
        return int(self.stage.ledger()["total"]["exchanges"])

    def wait_for(self, what: str, is_so: Callable[[], bool]) -> float:
        """Seconds until it is so."""
        began = time.monotonic()
        while not is_so():
            waited = time.monotonic() - began
            assert waited < _PATIENCE, f"not within {_PATIENCE:.0f} s: {what}\n{self._log()}"
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

    def all_renew(self) -> float:
        """Seconds until every grant that any client could have kept has renewed once more."""
        before = {row.id: row.renewed_at for row in self.rows() if row.connection in KEPT}
        assert before

        def renewed() -> bool:
            rows = [row for row in self.rows() if row.id in before]
            return bool(rows) and all(row.renewed_at != before[row.id] for row in rows)

        return self.wait_for("all that can be kept renews", renewed)

    def held(self) -> set[bytes]:
        """Fingerprints of every refresh token that was ever durable with us."""
        engine = open_engine(self.environment["EVERGRANT_DATABASE_URL"])
        with engine.connect() as connection:
            found = set(connection.execute(select(SeenRefreshTokenRow.fp)).scalars())
            found |= set(connection.execute(select(CandidateRow.rt_fp)).scalars())
        engine.dispose()
        journals = NodeJournals(self.directory / "data" / "journal", own="the judge")
        with journals.all_dead() as dead:
            for process in dead:
                found |= {one.rt_fp for one in process.history() if one.rt_fp}
        return found

    def _log(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in self.directory.glob("*.log"))


@dataclass(frozen=True)
class Report:
    renewals: int
    kills: int
    answers_lost: int
    families_lost: int  # revoked because a spent token came again
    spent_twice: int  # a token sent although its successor was durable with us
    false_verdicts: int  # needs_reauth, though the provider would still renew
    lost_of_kept: int  # grants of N, M, G that need a login
    lost_of_strict: int
    never_durable: int  # successors at S and F that nobody got hold of: the providers' own count


def judge(drill: Drill) -> Report:
    """Compare the providers' families with what we hold."""
    vault = AesVault(Keyring.load(drill.directory / "keyring.json"))
    held, rows = drill.held(), drill.rows()
    dead = [row for row in rows if row.state == "needs_reauth"]
    spent_twice = false_verdicts = never_durable = 0
    by_account = {(row.connection, row.identity_user_id): row for row in rows}
    for connection, profile in {**KEPT, **STRICT}.items():
        issuer = drill.stage.stage.providers[profile].issuer
        for family in issuer._families.values():
            token = issuer._mint.make(Parsed("r", family.id, family.newest, 0))
            ours = vault.fingerprint(Secret(token)) in held
            row = by_account.get((connection, family.grant.subject))
            spent_twice += bool(family.grant.counts.reused and ours)
            never_durable += connection in STRICT and not ours
            lives = family.ended is None and ours
            false_verdicts += bool(row is not None and row.state == "needs_reauth" and lives)
    total = drill.stage.ledger()["total"]
    return Report(
        renewals=total["exchanges"],
        kills=drill.kills,
        answers_lost=total["answers_lost"],
        families_lost=total["families_lost"],
        spent_twice=spent_twice,
        false_verdicts=false_verdicts,
        lost_of_kept=sum(row.connection in KEPT for row in dead),
        lost_of_strict=sum(row.connection in STRICT for row in dead),
        never_durable=never_durable,
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
        drill = Drill(directory, stage, environment, random.Random(seed))
        others = [_start(directory, environment, role) for role in ("web", "scheduler")]
        stack.callback(lambda: [_end(one) for one in [*drill.workers, *others]])
        drill.start_worker()
        drill.start_worker()
        doors = f"http://127.0.0.1:{port}"
        drill.wait_for("the doors open", lambda: _opens(f"{doors}/readyz"))
        stage.do("send_to", **webhooks(doors))
        for connection in (*KEPT, *STRICT):
            for number in range(users):
                stage.login(connection, f"{connection}-{number}")
        wanted = users * len({**KEPT, **STRICT})
        drill.wait_for("every login is a grant", lambda: len(drill.rows()) == wanted)
        yield drill


def _prepare(directory: Path, environment: Mapping[str, str]) -> None:
    """The schema and the keyring."""
    (directory / "data").mkdir()
    Keyring.create(directory / "keyring.json")
    engine = open_engine(environment["EVERGRANT_DATABASE_URL"])
    migrate.upgrade(engine)
    engine.dispose()


def _start(directory: Path, environment: Mapping[str, str], role: str) -> subprocess.Popen[bytes]:
    with (directory / f"{role}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "worker.cli", role],
            cwd=directory,
            env=dict(environment),
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
