"""What befalls a world: kills, naps, outages, logins, deletions, strangers; all from one seed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

from sqlalchemy import func, select

from tests.planted import candidates_of, row_of
from tests.simulation.auth0 import Register
from tests.simulation.glances import Glance
from tests.simulation.provider import answer
from tests.simulation.world import Fault, Process, World, content_of, restore
from worker.domain.burial import Selection
from worker.domain.exchange import Answered, Rotation, WireRequest
from worker.domain.grant import GrantId
from worker.domain.rotation import BEFORE_EXPIRY, HOLD, QUIET
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.engine import reading
from worker.store.tables import CounterRow
from worker.store.tombstones import TombstoneRepository

# Longer than a lease that others take over. From 30 s on another node may, where the access token
# is over anyway, send without proof; a process that sleeps longer then, with the answer in its
# memory, is past what the protocol promises (the hold of docs/protocol.md).
LONGEST_NAP = 28.0
# Where a renewal can break; elsewhere kills are rarer, because nothing is at stake there.
_CARE: Mapping[str, float] = {
    **dict.fromkeys(("take_over", "extend", "connect", "answer", "journal", "journaled"), 1.0),
    **dict.fromkeys(("claim_due", "settle"), 3.0),
}
_STRICT = (Rotation.G, Rotation.S, Rotation.F)


class Misfortunes:
    """Hangs itself into a world; counts in `seen` what has happened."""

    def __init__(self, world: World, dice: Random, register: Register) -> None:
        self._world = world
        self._dice = dice
        self._register = register
        self.grants: dict[GrantId, str] = {}  # with the first refresh token of each
        self.seen: Counter[str] = Counter()
        self.calm = False
        self.broker_gone = False
        self.deleted: dict[GrantId, float] = {}  # when, in the loop's time
        self.shared: set[GrantId] = set()  # got the refresh token of another (C18)
        self.foreign: set[GrantId] = set()  # spent by somebody else too (C19)
        self.families: dict[GrantId, list[str]] = {}  # by a refresh token of each login
        self.past_hold: set[str] = set()  # spent again when no more was promised
        self._failing_over = False
        self._called_dead: set[str] = set()  # refresh tokens of which the provider lied once
        self._others: set[asyncio.Task[None]] = set()
        world.network.faults = self.fault
        world.at_step = self.at_step
        world.unknown_commit = self.unknown_commit
        world.ledger.on_double_spend = self._spent_again

    def plant(self, count: int) -> None:
        for number in range(count):
            first = f"g{number}"
            grant = self._world.plant(first)
            self.grants[grant] = first
            self.families[grant] = [first]
            self._register.know(grant, first)

    def calms(self) -> None:
        """From now on nothing befalls anybody."""
        self.calm = True
        self._world.store_away = self.broker_gone = False
        for process in self._world.processes:
            process.resume()

    # ------------------------------------------------------------ between two steps of a process

    def at_step(self, process: Process, step: str) -> None:
        if self.calm or process.dead:
            return
        if step == "settle" and self._world.store_away:
            self.seen["store away at settle"] += 1
        luck = self._dice.random() * _CARE.get(step.removesuffix(".done"), 20)
        if luck < 0.01:
            self.seen[f"killed at {step}"] += 1
            process.kill()
        elif luck < (0.03 if step == "answer" else 0.02):
            self.seen["paused"] += 1
            self.seen[f"paused at {step}"] += 1
            process.pause()
            self._later(self._dice.uniform(16, LONGEST_NAP), process.resume)
        elif step == "connect":
            self._around_an_exchange(process, luck)

    def _around_an_exchange(self, process: Process, luck: float) -> None:
        soon = self._dice.uniform(0.01, 0.2)
        if luck < 0.03:
            self.seen["killed in flight"] += 1
            self._later(soon, process.kill)
        elif luck < 0.035:
            self._later(soon, self._delete_one_in_flight)
        elif luck < 0.045:
            self._later(soon, self._store_goes)
            self._later(soon + self._dice.expovariate(1 / 10), self._store_comes)
        elif luck < 0.05:
            self._later(soon, self._log_in_one_in_flight)
        elif luck < 0.053:
            self._background(self._fail_over())

    def unknown_commit(self, call: str) -> bool:
        """The store did it, and the connection broke before it could say so."""
        lost = not self.calm and call in ("claim_due", "settle") and self._dice.random() < 0.005
        self.seen[f"{call} committed, nobody heard"] += lost
        return lost

    # ------------------------------------------------------------ on the wire

    def fault(self, request: WireRequest) -> Fault:
        luck = 1.0 if self.calm else self._dice.random()
        travel = self._dice.uniform(0.01, 0.1)
        token = request.body.decode()
        if luck < 0.02:
            self.seen["refused"] += 1
            return Fault(refuse=True)
        if luck < 0.03:
            self.seen["request lost"] += 1
            return Fault(lose_request=True, cut_after=self._dice.uniform(0.1, 60))
        if luck < 0.045:
            self.seen["answer lost"] += 1
            return Fault(travel=travel, cut_after=self._dice.uniform(0.1, 60))
        if luck < 0.07:
            self.seen["slow"] += 1
            return Fault(travel=travel, back=self._dice.uniform(1, 25))
        if luck < 0.08:
            self.seen["malformed"] += 1
            return Fault(travel=travel, mangle=_without_access_token)
        if luck < 0.083:
            return self._disowned(token, travel)
        if luck < 0.095:
            return Fault(travel=travel, mangle=lambda told: self._shared(token, told))
        if luck < 0.5 and self._is_a_repetition(token):
            return Fault(travel=travel, mangle=lambda told: self._echoed(token, told))
        return Fault(travel=travel)

    def _disowned(self, token: str, travel: float) -> Fault:
        """Called dead for once, and alive when asked again: two such answers a minute apart are the
        proof that I8 asks for, and nobody could tell them from the truth."""
        if token in self._called_dead:
            return Fault(travel=travel)
        self._called_dead.add(token)
        self.seen["invalid_grant out of nothing"] += 1
        return Fault(answer=answer(400, {"error": "invalid_grant"}))

    def _is_a_repetition(self, token: str) -> bool:
        """A token that rotated already, sent again in its grace."""
        ledger = self._world.ledger
        spent = ledger.rotation is Rotation.G and token in ledger.families[token].rotated_at
        return spent and not self.calm

    def _echoed(self, token: str, told: Answered) -> Answered:
        """C22: as django-oauth-toolkit once did."""
        if told.status != 200:
            return told
        self.seen["the token sent came back"] += 1
        return _with(told, refresh_token=token)

    def _shared(self, token: str, told: Answered) -> Answered:
        """C18: another consent's very refresh token comes, where that one lies still. One that
        renews while the answer is on its way is left out: no index tells who had a token before."""
        grant = self._of(token)
        later = self._world.now() + timedelta(seconds=150)
        rows = {one: self._row(one) for one in self._untouched() if one != grant}
        idle = [
            g for g, row in rows.items() if row.attempt is None and (row.due_at or later) > later
        ]
        rotated = json.loads(told.body).get("refresh_token", token) != token
        if not rotated or not idle or grant not in self._untouched() or self.shared:
            return told
        other = self._dice.choice(idle)
        newest = self._world.ledger.families[self.families[other][-1]].newest
        if self._row(other).rt_fp != self._world.fingerprint(newest):
            return told
        self.seen["two consents, one refresh token"] += 1
        self.shared.add(grant)
        return _with(told, refresh_token=newest)

    def _spent_again(self, token: str, at: float) -> None:
        """Whether its successor lies on a node that was away for longer than a hold lasts: half a
        minute, where the access token is over."""
        world, grant = self._world, self._of(token)
        family, row = world.ledger.families[token], row_of(world.store, grant)
        age = at - family.rotated_at[token] + 1.0  # claimed a moment before it rotated
        over = row.expires_at is not None and world.now() >= row.expires_at - BEFORE_EXPIRY
        held = age >= HOLD.total_seconds() or (over and age >= QUIET.total_seconds())
        at_hand, away = self._on_nodes(grant)
        at_hand |= {one.rt_fp for one in candidates_of(world.store, grant)}
        if held and world.fingerprint(family.successor[token]) in away - at_hand:
            self.seen["spent again, its successor on a node away past the hold"] += 1
            self.past_hold.add(token)

    def _on_nodes(self, grant: GrantId) -> tuple[set[bytes | None], set[bytes | None]]:
        """Refresh tokens in journals that a living process can read, and in others."""
        living = {process.node for process in self._world.processes if not process.dead}
        found: tuple[set[bytes | None], set[bytes | None]] = (set(), set())
        for node, disk in self._world.disks.items():
            for entries in disk.entries.values():
                mine = {one.rt_fp for one in entries if one.grant == grant}
                found[node not in living].update(mine)
        return found

    # ------------------------------------------------------------ weather

    async def weather(self) -> None:
        luck = self._dice.random()
        if luck < 0.05:
            self._store_goes()
            await asyncio.sleep(self._dice.expovariate(1 / 20))
            self._store_comes()
        elif luck < 0.07 and not self.broker_gone:
            self.seen["broker gone"] += 1
            self.broker_gone = True
            self._later(self._dice.uniform(60, 1800), self._broker_comes)
        elif luck < 0.09:
            self._step_a_clock()
        elif luck < 0.12:
            self._log_in(self._untouched())
        elif luck < 0.13:
            self._strange_spender()

    def _store_goes(self) -> None:
        self.seen["store away"] += not self.calm
        self._world.store_away = not self.calm

    def _store_comes(self) -> None:
        self._world.store_away = self._failing_over

    def _broker_comes(self) -> None:
        self.broker_gone = False

    def _step_a_clock(self) -> None:
        """T7: an operator, or ntpd, sets one process's wall clock; later it is right again."""
        living = [process for process in self._world.processes if not process.dead]
        if not living:
            return
        self.seen["clock stepped"] += 1
        process = self._dice.choice(living)
        process.step_clock(self._dice.choice((-3600.0, 3600.0)))
        self._later(self._dice.uniform(10, 300), lambda: process.step_clock(0.0))

    async def _fail_over(self) -> None:
        """C16: a replica that lacks the last commits becomes the store."""
        if self._failing_over:
            return
        before, deleted = content_of(self._world.store), dict(self.deleted)
        await asyncio.sleep(self._dice.uniform(0.5, 20))
        if self.calm or self._failing_over:
            return
        counted = self._rotations()
        self._failing_over = self._world.store_away = True
        restore(self._world.store, before)
        self._world.lineage += 1
        self.seen["rotated tokens lost by the store"] += counted > self._rotations()
        self.deleted = {grant: at for grant, at in self.deleted.items() if grant in deleted}
        await asyncio.sleep(self._dice.uniform(1, 15))
        self._failing_over = False
        self._store_comes()
        for grant in self.grants:  # what was merged meanwhile is found by the reconcile
            self._background(self._register.tell(self._row(grant).user_id))

    def _rotations(self) -> int:
        asked = select(func.sum(CounterRow.value)).where(CounterRow.name.startswith("rotated:"))
        with reading(self._world.store) as db:
            return int(db.execute(asked).scalar_one() or 0)

    # ------------------------------------------------------------ people

    def _delete_one_in_flight(self) -> None:
        """C20: an erasure, committed by a process that knows nothing of the others."""
        claimed = [grant for grant in self._untouched() if self._row(grant).attempt is not None]
        if self.calm or not claimed or len(self.deleted) == len(self.grants) // 2:
            return
        grant = self._dice.choice(claimed)
        tombstones = TombstoneRepository(self._world.store, AuditLog("cli"), outbox.add)
        chosen, now = Selection(tenant="acme", grant=grant), self._world.now()
        if tombstones.bury(chosen, why="asked", actor="cli:x", now=now):
            self.seen["deleted during an exchange"] += 1
            self.deleted[grant] = asyncio.get_running_loop().time()

    def _log_in_one_in_flight(self) -> None:
        """M7."""
        claimed = [grant for grant in self._untouched() if self._row(grant).attempt is not None]
        self.seen["logged in during an exchange"] += self._log_in(claimed)

    def _log_in(self, grants: list[GrantId]) -> bool:
        """M3: a new family; whoever needed a login has it."""
        if self.calm or not grants:
            return False
        grant = self._dice.choice(grants)
        fresh = f"{self.grants[grant]}~{len(self.families[grant])}"
        self._world.ledger.login(fresh)
        self.families[grant].append(fresh)
        user = self._row(grant).user_id
        self._register.logs_in(user, fresh)
        self.seen["logged in"] += 1
        self._background(self._register.tell(user))
        return True

    def _strange_spender(self) -> None:
        """C19: Auth0's Token Vault, or another job, renews the grant behind our back."""
        ledger = self._world.ledger
        idle = [grant for grant in self._untouched() if self._row(grant).attempt is None]
        if self.calm or not idle or self.foreign or ledger.rotation not in _STRICT:
            return
        grant = self._dice.choice(idle)
        token = ledger.families[self.families[grant][-1]].newest
        if self._row(grant).rt_fp != self._world.fingerprint(token):
            return
        status, body = ledger.refresh(token, asyncio.get_running_loop().time())
        if status == 200:
            self.seen["spent by somebody else"] += 1
            self.foreign.add(grant)
            self._register.moved(self._row(grant).user_id, str(body["refresh_token"]))

    def _untouched(self) -> list[GrantId]:
        """Whom nothing has befallen yet that changes what may be expected of it."""
        apart = self.foreign | self.shared | self.deleted.keys()
        return [grant for grant in self.grants if grant not in apart]

    def _of(self, token: str) -> GrantId:
        first = token.split(".", maxsplit=1)[0].split("~", maxsplit=1)[0]
        return next(grant for grant, name in self.grants.items() if name == first)

    def _row(self, grant: GrantId) -> Glance:
        return self._world.glances.grant(grant)

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(seconds, call)

    def _background(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)


def _with(told: Answered, **changes: str) -> Answered:
    return replace(told, body=json.dumps({**json.loads(told.body), **changes}).encode())


def _without_access_token(told: Answered) -> Answered:
    """C21: a provider that answers 200 with half of what it owes, after it has acted."""
    body = json.loads(told.body)
    body.pop("access_token", None)
    return replace(told, body=json.dumps(body).encode())
