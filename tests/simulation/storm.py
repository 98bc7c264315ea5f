"""One seed, one story: processes are killed and paused, answers are lost, the store goes away.

make drill SEED=17                                    replays one seed, and tells its counts
python -m tests.simulation.storm SEED [renewals]      the same by hand
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import FIRST_COMPLETED
from collections import Counter
from datetime import datetime
from random import Random

from tests.simulation.auth0 import Register
from tests.simulation.glances import Glance
from tests.simulation.judge import Judge
from tests.simulation.misfortunes import Misfortunes
from tests.simulation.provider import Ledger
from tests.simulation.virtual_time import run
from tests.simulation.world import Process, World, same_store
from worker.domain.exchange import Rotation
from worker.domain.rotation import QUIET
from worker.renewal.engine import STOP_PATIENCE
from worker.vault import AesVault, Keyring

GRANTS = 12
LIFE = 900.0  # seconds an access token lives
_LOOK = 20.0  # seconds between looks at which store it is
VARIANTS = [
    (Rotation.N, 0.0, "same"),
    (Rotation.M, 0.0, "new"),
    (Rotation.G, 600.0, "same"),
    (Rotation.G, 30.0, "same"),
    (Rotation.G, 30.0, "new"),
    (Rotation.S, 0.0, "same"),
    (Rotation.F, 0.0, "same"),
]


class Storm:
    """Three supervisors on two nodes, and what befalls them."""

    def __init__(self, seed: int, *, renewals: int) -> None:
        self.dice = Random(seed)
        self.renewals = renewals
        rotation, grace, siblings = VARIANTS[seed % len(VARIANTS)]
        ledger = Ledger(rotation, grace=grace, siblings=siblings, life=LIFE)
        self.world = World(ledger, AesVault(Keyring.generate()), seed=seed, store=same_store())
        self.world.pull = Register(self.world)
        self.story = Misfortunes(self.world, self.dice, self.world.pull)
        self.moved = 0  # how often a node lost its disk, and came back as another

    async def play(self) -> Counter[str]:
        """The story, and then calm weather until everything is settled."""
        self.story.plant(GRANTS)
        workers = [asyncio.create_task(self._node(node)) for node in ("n1", "n1", "n2")]
        while len(self.world.ledger.spent) < self.renewals and self.world.glances.anything_left():
            await asyncio.sleep(30)
            await self.story.weather()
        self.story.calms()
        await asyncio.sleep(2 * LIFE)
        for worker in workers:
            worker.cancel()
        await asyncio.sleep(STOP_PATIENCE)  # what is under way ends: its answer may be on the way
        Judge(self.world, self.story).judge()
        return self.story.seen

    async def _node(self, node: str) -> None:
        """A supervisor: starts a process, ticks it, and starts another when it has died."""
        while True:
            process = self.world.start(node=f"{node}.{self.moved}" if node == "n2" else node)
            while not process.dead:
                ticking = asyncio.create_task(self._tick(process))
                await asyncio.wait([ticking, process.died], return_when=FIRST_COMPLETED)
                if not process.dead:
                    await self._rest(process)
            self.story.seen["killed"] += 1
            if node == "n2" and not self.story.calm and self.dice.random() < 0.1:
                self.story.seen["disk lost"] += 1
                self.world.lose_disk(process.node)
                self.moved += 1
            await asyncio.sleep(self.dice.choice((0.5, 5.0, 60.0)) if node == "n2" else 0.5)

    async def _rest(self, process: Process) -> None:
        """Until a tick may find something: due work, or that the store became another."""
        lineage, now = self.world.lineage, asyncio.get_running_loop().time
        until = now() + self._until_something_is_due()
        while not process.dead and now() < until and self.world.lineage == lineage:
            await asyncio.wait([process.died], timeout=min(_LOOK, until - now()))

    def _until_something_is_due(self) -> float:
        """Ticks come every two seconds; those that would find nothing are left out."""
        if self.world.store_away:
            return 2.0
        now = self.world.now()
        rows = (row for row in self.world.glances.grants() if not row.tombstoned)
        soonest = min((self._next_look(row, now) for row in rows), default=0.0)
        return min(LIFE, max(2.0, soonest)) + self.dice.choice((0.0, 30.0, 60.0))

    def _next_look(self, row: Glance, now: datetime) -> float:
        """Seconds until there may be something to do about this grant."""
        if row.attempt is None or row.claimed_at is None or row.lease_until is None:
            return (row.due_at - now).total_seconds() if row.due_at else LIFE
        if row.uncertain or not self.world.lives(row.claim_process):
            return 2.0 if now - row.claimed_at < QUIET * 2 else 15.0
        return (row.lease_until - now).total_seconds()

    async def _tick(self, process: Process) -> None:
        """The sweep of each worker; and a hint, where there is a broker to bring it."""
        swept = await process.engine.sweep(budget_seconds=0.05)
        if self.story.broker_gone:
            self.story.seen["renewed without a broker"] += swept.get("renewed", 0)
        else:
            await process.drain(budget=0.05)


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
