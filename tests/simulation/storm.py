"""One seed, one story: processes are killed and paused, answers are lost, the store goes away.

    python -m tests.simulation.storm SEED [renewals]        replays one seed, and tells its counts

The provider's ledger is the oracle. Allowed losses are counted by the provider itself: a
successor that never became durable with us, on disk or in the store.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from random import Random

from sqlalchemy import select

from tests.simulation.provider import Ledger
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault, Process, World
from worker.domain.exchange import Rotation, WireRequest
from worker.domain.grant import GrantId, GrantState
from worker.domain.secret import Secret
from worker.store.engine import reading
from worker.store.tables import CandidateRow, GrantRow
from worker.vault import AesVault, Keyring

GRANTS = 5
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

# Where a renewal can break; between these, kills are rarer, because nothing is at stake there.
_PROTOCOL = frozenset(
    {"claim_due", "take_over", "extend", "connect", "answer", "journal", "journaled", "settle"}
)


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
        self.seen: Counter[str] = Counter()  # what was reached, for "sometimes" demands
        self.calm = False

    async def play(self) -> Counter[str]:
        """The story, and then calm weather until everything is settled."""
        grants = [self.world.plant(f"g{n}") for n in range(GRANTS)]
        workers = [asyncio.create_task(self._node(node)) for node in ("n1", "n1", "n2")]
        while len(self.world.ledger.spent) < self.renewals and self._anything_left(grants):
            await asyncio.sleep(20)
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
            process = self.world.start(node=node)
            while not process.dead:
                ticking = asyncio.create_task(self._tick(process))
                while not ticking.done() and not process.dead:
                    await asyncio.wait([ticking], timeout=2.0)
                if not process.dead:
                    await asyncio.sleep(self._until_something_is_due())
            self.seen["killed"] += 1
            await asyncio.sleep(self.dice.choice((0.5, 5.0, 60.0)) if node == "n2" else 0.5)

    def _until_something_is_due(self) -> float:
        """Ticks come every two seconds; those that would find nothing are left out."""
        now = self.world.now()
        with reading(self.world.store) as db:
            rows = db.execute(select(GrantRow.due_at, GrantRow.attempt)).all()
        if self.world.store_away or any(row.attempt for row in rows):
            return 2.0
        due = min((row.due_at for row in rows if row.due_at), default=now)
        return min(60.0, max(2.0, (due - now).total_seconds()))

    async def _tick(self, process: Process) -> None:
        await process.engine.sweep(budget_seconds=1.0)
        await process.drain(budget=1.0)

    async def _weather(self) -> None:
        if self.dice.random() < 0.05:
            self.seen["store away"] += 1
            self.world.store_away = True
            await asyncio.sleep(self.dice.expovariate(1 / 20))
            self.world.store_away = False

    def _at_step(self, process: Process, step: str) -> None:
        if self.calm or process.dead:
            return
        luck = self.dice.random() * (1 if step.removesuffix(".done") in _PROTOCOL else 20)
        if luck < 0.01:
            self.seen[f"killed at {step}"] += 1
            process.kill()
        elif luck < 0.015:
            self.seen["paused"] += 1
            process.pause()
            nap = self.dice.expovariate(1 / 15)
            asyncio.get_running_loop().call_later(nap, process.resume)

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
        return Fault(travel=travel)

    def _anything_left(self, grants: list[GrantId]) -> bool:
        return any(
            self._row(grant).state in (GrantState.ACTIVE, GrantState.SUSPECT) for grant in grants
        )

    def _row(self, grant: GrantId):  # type: ignore[no-untyped-def]  # a Row
        with reading(self.world.store) as db:
            return db.execute(select(GrantRow.__table__).where(GrantRow.id == grant)).one()

    def _judge(self, grants: list[GrantId]) -> None:
        """I1, I3, I4, I8 over the provider's ledger. Raises: AssertionError with the seed."""
        ledger = self.world.ledger
        for number, grant in enumerate(grants):
            row = self._row(grant)
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
