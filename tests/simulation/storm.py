"""One seed, one story: processes are killed and paused, answers are lost, the store goes away.

    make drill SEED=17                                    replays one seed, and tells its counts
    python -m tests.simulation.storm SEED [renewals]      the same by hand

The provider's ledger is the oracle. Allowed losses are counted by the provider itself: a
successor that never became durable with us, on disk or in the store.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Any

from sqlalchemy import select

from tests.simulation.provider import Ledger
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault, Process, World
from worker.domain.burial import Selection
from worker.domain.exchange import Answered, Rotation, WireRequest
from worker.domain.grant import GrantId, GrantState
from worker.domain.rotation import QUIET
from worker.domain.secret import Secret
from worker.renewal.exchange import KNOWN_FOR
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.engine import reading
from worker.store.tables import AuditRow, CandidateRow, GrantRow
from worker.store.tombstones import TombstoneRepository
from worker.vault import AesVault, Keyring

GRANTS = 12
LIFE = 900.0  # seconds an access token lives
VARIANTS = [
    (Rotation.N, 0.0, "same"),
    (Rotation.M, 0.0, "new"),
    (Rotation.G, 600.0, "same"),
    (Rotation.G, 30.0, "same"),
    (Rotation.G, 30.0, "new"),
    (Rotation.S, 0.0, "same"),
    (Rotation.F, 0.0, "same"),
]

# Longer than a lease that others take over. From 30 s on another node may, where the access token
# is over anyway, send without proof; a process that sleeps longer then, with the answer in its
# memory, is past what the protocol promises (the hold of docs/protocol.md).
LONGEST_NAP = 28.0
# Where a renewal can break; elsewhere kills are rarer, because nothing is at stake there.
_CARE = {
    **dict.fromkeys(("take_over", "extend", "connect", "answer", "journal", "journaled"), 1),
    **dict.fromkeys(("claim_due", "settle"), 3),
}

# What has to have happened for a row of the crash table (docs/protocol.md) to be reached. The
# others are reached by tests of their own, which the page names.
ROWS: Mapping[str, tuple[str, ...]] = {
    "C1": ("killed at claim_due",),
    "C2": ("claim_due committed, nobody heard",),
    "C3": ("killed at claim_due.done", "killed at extend.done"),
    "C4": ("refused",),
    "C5": ("paused at connect",),
    "C6": ("request lost",),
    "C7": ("answer lost",),
    "C8": ("killed in flight",),
    "C9": ("killed at answer", "killed at journal"),
    "C10": ("killed at journaled",),
    "C11": ("store away at settle",),
    "C12": ("settle committed, nobody heard",),
    "C13": ("candidate kept: lost_fence",),
    "C14": ("killed at settle.done",),
    "C15": ("disk lost",),
    "C20": ("deleted during an exchange",),
    "C21": ("malformed",),
}


_AT_WORK = select(
    GrantRow.due_at,
    GrantRow.attempt,
    GrantRow.claim_process,
    GrantRow.claimed_at,
    GrantRow.lease_until,
    GrantRow.uncertain,
).where(GrantRow.tombstoned_at.is_(None))
_OPEN = select(GrantRow.id).where(GrantRow.state.in_([GrantState.ACTIVE, GrantState.SUSPECT]))


class Storm:
    """Everything that happens is drawn from one seed."""

    def __init__(self, seed: int, *, renewals: int) -> None:
        self.dice = Random(seed)
        self.seed = seed
        self.renewals = renewals
        rotation, grace, siblings = VARIANTS[seed % len(VARIANTS)]
        ledger = Ledger(rotation, grace=grace, siblings=siblings, life=LIFE)
        self.world = World(ledger, AesVault(Keyring.generate()), seed=seed)
        self.world.network.faults = self._fault
        self.world.at_step = self._at_step
        self.world.unknown_commit = self._unknown_commit
        self.deleted: dict[GrantId, float] = {}  # when, in the loop's time
        self.moved = 0  # how often a node lost its disk, and came back as another
        self.seen: Counter[str] = Counter()  # what was reached, for "sometimes" demands
        self.calm = False

    async def play(self) -> Counter[str]:
        """The story, and then calm weather until everything is settled."""
        grants = [self.world.plant(f"g{n}") for n in range(GRANTS)]
        self.grants = grants
        workers = [asyncio.create_task(self._node(node)) for node in ("n1", "n1", "n2")]
        while len(self.world.ledger.spent) < self.renewals and self._anything_left():
            await asyncio.sleep(30)
            await self._weather()
        self.calm = True
        self.world.store_away = False
        for process in self.world.processes:
            process.resume()
        await asyncio.sleep(2 * LIFE)
        for worker in workers:
            worker.cancel()
        self._judge(grants)
        return self.seen

    async def _node(self, node: str) -> None:
        """A supervisor: starts a process, ticks it, and starts another when it has died."""
        while True:
            process = self.world.start(node=f"{node}.{self.moved}" if node == "n2" else node)
            while not process.dead:
                ticking = asyncio.create_task(self._tick(process))
                await asyncio.wait([ticking, process.died], return_when=FIRST_COMPLETED)
                if not process.dead:
                    await asyncio.wait([process.died], timeout=self._until_something_is_due())
            self.seen["killed"] += 1
            if node == "n2" and not self.calm and self.dice.random() < 0.1:
                self.seen["disk lost"] += 1
                self.world.lose_disk(process.node)
                self.moved += 1
            await asyncio.sleep(self.dice.choice((0.5, 5.0, 60.0)) if node == "n2" else 0.5)

    def _until_something_is_due(self) -> float:
        """Ticks come every two seconds; those that would find nothing are left out."""
        if self.world.store_away:
            return 2.0
        now = self.world.now()
        with reading(self.world.store) as db:
            rows = db.execute(_AT_WORK).all()
        soonest = min((self._next_look(row, now) for row in rows), default=0.0)
        return min(LIFE, max(2.0, soonest)) + self.dice.choice((0.0, 30.0, 60.0))

    def _next_look(self, row: Any, now: datetime) -> float:
        """Seconds until there may be something to do about this grant."""
        if row.attempt is None:
            return (row.due_at - now).total_seconds() if row.due_at else LIFE
        if row.uncertain or not self.world.lives(row.claim_process):
            return 2.0 if now - row.claimed_at < QUIET * 2 else 15.0
        return (row.lease_until - now).total_seconds()

    async def _tick(self, process: Process) -> None:
        await process.engine.sweep(budget_seconds=0.05)
        await process.drain(budget=0.05)

    async def _weather(self) -> None:
        if self.dice.random() < 0.05:
            self.seen["store away"] += 1
            self.world.store_away = True
            await asyncio.sleep(self.dice.expovariate(1 / 20))
            self.world.store_away = False

    def _delete_one_in_flight(self) -> None:
        """An erasure, committed by a process that knows nothing of the others."""
        claimed = [grant for grant in self.grants if self._row(grant).attempt is not None]
        if self.calm or not claimed or len(self.deleted) == GRANTS - 2:
            return
        grant = self.dice.choice(claimed)
        tombstones = TombstoneRepository(self.world.store, AuditLog("cli"), outbox.add)
        buried = tombstones.bury(
            Selection(tenant="acme", grant=grant), why="asked", actor="cli:x", now=self.world.now()
        )
        if buried:
            self.seen["deleted during an exchange"] += 1
            self.deleted[grant] = asyncio.get_running_loop().time()

    def _at_step(self, process: Process, step: str) -> None:
        if self.calm or process.dead:
            return
        if step == "settle" and self.world.store_away:
            self.seen["store away at settle"] += 1
        luck = self.dice.random() * _CARE.get(step.removesuffix(".done"), 20)
        if luck < 0.01:
            self.seen[f"killed at {step}"] += 1
            process.kill()
        elif luck < (0.03 if step == "answer" else 0.02):
            self.seen["paused"] += 1
            self.seen[f"paused at {step}"] += 1
            process.pause()
            nap = self.dice.uniform(16, LONGEST_NAP)
            asyncio.get_running_loop().call_later(nap, process.resume)
        elif step == "connect":
            self._trouble_in_flight(process, luck)

    def _trouble_in_flight(self, process: Process, luck: float) -> None:
        later = asyncio.get_running_loop().call_later
        soon = self.dice.uniform(0.01, 0.2)
        if luck < 0.03:
            self.seen["killed in flight"] += 1
            later(soon, process.kill)
        elif luck < 0.035:
            later(soon, self._delete_one_in_flight)
        elif luck < 0.045:
            later(soon, self._store_goes)
            later(soon + self.dice.expovariate(1 / 10), self._store_comes)

    def _store_goes(self) -> None:
        self.seen["store away"] += 1
        self.world.store_away = not self.calm

    def _store_comes(self) -> None:
        self.world.store_away = False

    def _unknown_commit(self, call: str) -> bool:
        """The store did it, and the connection broke before it could say so."""
        lost = not self.calm and call in ("claim_due", "settle") and self.dice.random() < 0.005
        self.seen[f"{call} committed, nobody heard"] += lost
        return lost

    def _fault(self, _: WireRequest) -> Fault:
        luck = 1.0 if self.calm else self.dice.random()
        travel = self.dice.uniform(0.01, 0.1)
        if luck < 0.02:
            self.seen["refused"] += 1
            return Fault(refuse=True)
        if luck < 0.03:
            self.seen["request lost"] += 1
            return Fault(lose_request=True, cut_after=self.dice.uniform(0.1, 60))
        if luck < 0.04:
            self.seen["answer lost"] += 1
            return Fault(travel=travel, cut_after=self.dice.uniform(0.1, 60))
        if luck < 0.07:
            self.seen["slow"] += 1
            return Fault(travel=travel, back=self.dice.uniform(1, 25))
        if luck < 0.08:
            self.seen["malformed"] += 1
            return Fault(travel=travel, mangle=_without_access_token)
        return Fault(travel=travel)

    def _anything_left(self) -> bool:
        with reading(self.world.store) as db:
            return db.execute(_OPEN).first() is not None

    def _row(self, grant: GrantId) -> Any:
        with reading(self.world.store) as db:
            return db.execute(select(GrantRow.__table__).where(GrantRow.id == grant)).one()

    def _judge(self, grants: list[GrantId]) -> None:
        """I1, I3, I4, I8, I14 by the provider's ledger. Raises: AssertionError with the seed."""
        ledger = self.world.ledger
        self._count_candidates()
        for number, grant in enumerate(grants):
            row = self._row(grant)
            if grant in self.deleted:
                self._judge_deleted(grant, number, row)
                continue
            family = ledger.families[f"g{number}"]
            held = self._held(grant)
            lost = row.state == GrantState.NEEDS_REAUTH
            newest_ever_held = family.newest in held
            about = f"seed {self.seed}, {ledger.rotation}, grant {number}: {row.state}"
            if lost:
                self.seen["lost"] += 1
                assert not (newest_ever_held and not family.revoked), f"{about}: still alive"
                assert ledger.rotation in (Rotation.G, Rotation.S, Rotation.F), about
            else:
                assert row.state == GrantState.ACTIVE, about
                assert newest_ever_held, f"{about}: current is not the newest"
            for token in ledger.double_spends:
                if ledger.families[token] is family:
                    successor = family.successor[token]
                    assert successor not in held, f"{about}: {token} spent though {successor} held"
                    self.seen["reuse of what was never answered"] += 1

    def _count_candidates(self) -> None:
        """What was kept beside the current token, by why: risen or rested meanwhile, or not."""
        with reading(self.world.store) as db:
            asked = select(AuditRow.detail).where(AuditRow.verb == "candidate_kept")
            for detail in db.execute(asked).scalars():
                self.seen[f"candidate kept: {detail['why']}"] += 1

    def _judge_deleted(self, grant: GrantId, number: int, row: Any) -> None:
        """I14: nothing is sent once a process can know, and nothing brings the grant back."""
        about = f"seed {self.seed}, {self.world.ledger.rotation}, deleted grant {number}"
        assert row.state == GrantState.TOMBSTONED, about
        family = self.world.ledger.families[f"g{number}"]
        known_by = self.deleted[grant] + KNOWN_FOR + 1
        sent = [at for at, token in self.world.network.sent if token in family.tokens]
        late = [at - self.deleted[grant] for at in sent if at > known_by]
        assert not late, f"{about}: sent {late} s later"

    def _held(self, grant: GrantId) -> set[str]:
        """Every refresh token that was ever durable with us: in the store or on a disk."""
        prints = {self.world.vault.fingerprint(Secret(t)): t for t in self.world.ledger.families}
        with reading(self.world.store) as db:
            current = db.execute(select(GrantRow.rt_fp).where(GrantRow.id == grant)).scalars()
            kept = db.execute(
                select(CandidateRow.rt_fp).where(CandidateRow.grant_id == grant)
            ).scalars()
            found = {*current, *kept}
        for disk in self.world.disks.values():
            for entries in disk.entries.values():
                found |= {entry.rt_fp for entry in entries if entry.grant == grant}
        return {prints[fp] for fp in found if fp in prints}


def _without_access_token(told: Answered) -> Answered:
    """A provider that answers 200 with half of what it owes, after it has acted."""
    body = json.loads(told.body)
    body.pop("access_token", None)
    return replace(told, body=json.dumps(body).encode())


def rows_reached(seen: Mapping[str, int]) -> dict[str, int]:
    """How often each row of the crash table was reached."""
    return {row: sum(seen[event] for event in events) for row, events in ROWS.items()}


def play(seed: int, *, renewals: int = 200) -> Counter[str]:
    """Raises: AssertionError naming the seed."""
    return run(Storm(seed, renewals=renewals).play())


def main() -> int:
    seed = int(sys.argv[1])
    renewals = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    for what, count in sorted(play(seed, renewals=renewals).items()):
        print(f"{count:6d}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
