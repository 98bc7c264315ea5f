"""The engine of one process: drains due work of a provider, sweeps, replays, stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from random import Random
from typing import Any

import structlog

from worker.domain.attempt import Brought, Ending, Fate, Settled
from worker.domain.errors import TransientError, WorkerError
from worker.domain.grant import Claim, GrantId
from worker.domain.ports import (
    Catalogue,
    Clock,
    Connections,
    Offload,
    TokenEndpoint,
    Vault,
)
from worker.domain.verdict import CONFIRM_AFTER
from worker.renewal.breaking import broke
from worker.renewal.committer import Committer
from worker.renewal.connection_acts import ConnectionActs
from worker.renewal.counting import Counting
from worker.renewal.endings import Endings
from worker.renewal.exchange import Exchanger
from worker.renewal.finding import Claimed, Finder
from worker.renewal.host_lanes import HostLanes
from worker.renewal.lanes import Lane
from worker.renewal.lessons import Lessons
from worker.renewal.ports import Claims, Copies, Hosts, Journal, Learning, NodeJournals, Settling
from worker.renewal.prepared import Prepared
from worker.renewal.replaying import Replayer
from worker.renewal.resolving import Resolver
from worker.renewal.salvaging import Salvager
from worker.renewal.store_clock import StoreClock
from worker.renewal.suspects import Suspects

OVERDUE = timedelta(seconds=15)  # unclaimed for so long: whoever should have been told was not
STOP_PATIENCE = 150.0  # seconds; a strict provider's read timeout and some
_LOST_KEPT = 1.0  # seconds between looks at which of our claims were deleted elsewhere (I14)
_STARTED_AT_ONCE = 16  # answers that wait for their journal must not wait for hundreds of starts
_IDLE = 0.05  # seconds between looks while a drain waits for places
_LONGEST_IDLE = 0.5  # and while it waits for answers, with nothing due
_log = structlog.get_logger(__name__)


class Engine:
    """Every collaborator is handed in; nothing here knows a database, a broker or a socket."""

    def __init__(
        self,
        *,
        node: str,
        claims: Claims,
        settling: Settling,
        journal: Journal,
        journals: NodeJournals,
        connections: Connections,
        catalogue: Catalogue,
        endpoint: TokenEndpoint,
        vault: Vault,
        hosts: Hosts,
        learning: Learning,
        pull: Copies,
        clock: Clock,
        offload: Offload,
        random: Random | None = None,
        confirm_after: timedelta = CONFIRM_AFTER,
    ) -> None:
        clock = StoreClock(clock)
        self._journal = journal
        self._clock = clock
        self._offload = offload
        self._claims = claims
        self._live: dict[tuple[GrantId, int], Claim] = {}
        self._tally: Counter[tuple[str, str]] = Counter()
        self._counting = Counting()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False
        self._lanes = HostLanes(
            hosts, clock=clock, offload=offload, work=self._work, background=self._background
        )
        self._resolver = Resolver(connections, catalogue, clock=clock, offload=offload)
        self._committer = Committer(
            settling, journal, clock=clock, offload=offload, settled=self._settled
        )
        self._replayer = Replayer(
            settling,
            journal,
            journals,
            claims=claims,
            node=node,
            clock=clock,
            offload=offload,
            counter=lambda: self._committer.counter,
        )
        self._endings = Endings(
            clock=clock,
            random=random or Random(),  # noqa: S311 - jitter
            confirm_after=confirm_after,
        )
        self._finding = asyncio.Lock()  # a claim in the store is at once known to live here
        self._finder = Finder(
            claims,
            journals,
            self._resolver,
            self._endings,
            vault,
            node=node,
            process=journal.process,
            clock=clock,
            offload=offload,
            live=self._live,
        )
        self._suspects = Suspects(pull, claims, offload=offload)
        self._lessons = Lessons(
            endpoint=endpoint,
            vault=vault,
            learning=learning,
            resolver=self._resolver,
            clock=clock,
            offload=offload,
            slot=self._lanes.slot,
        )
        acts = ConnectionActs(connections, self._resolver, clock=clock, offload=offload)
        self._exchanger = Exchanger(
            endpoint=endpoint,
            salvager=Salvager(vault),
            endings=self._endings,
            journal=journal,
            clock=clock,
            extend=self._extend,
            stop_connection=acts.stop,
            approve_host=acts.approve_host,
            share_pause=self._lanes.share_pause,
            journaled=self._committer.journaled,
            counting=self._counting,
        )

    async def drain(self, provider: str, *, budget_seconds: float) -> dict[str, int]:
        """Renew what is due at one provider until nothing is, or the time is spent.

        Exchanges that outlast the budget go on; `stop` waits for them. Never raises on a store
        that is away: nothing is then claimed.
        Returns: endings written meanwhile, counted by their fate.
        """
        before = Counter(self._tally)
        until = self._clock.monotonic() + budget_seconds
        idle = _IDLE
        while not self._stopping and self._clock.monotonic() < until:
            found = await self._step(provider)
            if found is None or not (found or self._under_way(provider)):
                break
            if found:
                idle = _IDLE
            elif self._room(provider):
                await self._clock.sleep(idle)
                idle = min(_LONGEST_IDLE, idle * 2)
            else:
                idle = _IDLE  # places will soon be free, and there may be more to claim
                await self._lanes.room_again(_IDLE)
        done = self._tally - before
        return {fate: count for (name, fate), count in done.items() if name == provider}

    async def sweep(self, *, budget_seconds: float = 5.0) -> dict[str, int]:
        """What nobody was told of: dead processes, and due work that lies unclaimed.

        Call it every second or two; it costs one probe per provider and tenant.
        """
        if not await self._replayer.store_is_whole():
            return {}
        try:
            died = await self.replay()
            due = await self._finder.due(fresh=True)
        except TransientError:
            self._replayer.doubtful = True
            self._finder.doubt()
            return {}
        overdue = self._clock.now() - OVERDUE
        names = {work.provider for work in due if died or work.since < overdue}
        drained = await asyncio.gather(
            *(self.drain(name, budget_seconds=budget_seconds) for name in sorted(names))
        )
        return dict(sum(map(Counter, drained), Counter()))

    async def replay(self) -> int:
        """Bring what dead processes of this node left into the store; how many were dead."""
        return await self._replayer.replay()

    def abandon(self, grants: Iterable[GrantId]) -> None:
        """These were deleted: attempts under way in this process must not send any more (I14)."""
        deleted = set(grants)
        self._exchanger.abandoned |= {key for key in self._live if key[0] in deleted}

    async def stop(self) -> None:
        """No new claims; exchanges under way run to their read timeout, and are written."""
        self._stopping = self._exchanger.stopping = self._lessons.stopping = True
        running = self._lanes.tasks()
        if running:
            await asyncio.wait(running, timeout=STOP_PATIENCE)
        await asyncio.wait_for(self._committer.flushed(), STOP_PATIENCE)
        if self._watching is not None:
            self._watching.cancel()  # nothing is under way any more that could have been lost
        await self._replayer.leave()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        await self._journal.close()

    async def _step(self, provider: str) -> int | None:
        """Claim once what there is room for. None: nothing may be claimed now."""
        self._drop_overdue(provider)
        if not await self._ready():
            return None
        claimed: list[Claimed] = []
        try:
            await self._lanes.learn_pauses()
            async with self._finding:
                claimed += self._alive(await self._finder.take_over(provider))
                claimed += self._alive(
                    await self._finder.claim(provider, room=self._room(provider))
                )
            prepared = await self._finder.prepare(claimed)
        except TransientError as error:
            self._replayer.doubtful = True
            self._finder.doubt()
            self._committer.put(
                *(self._endings.put_off(one.claim, error.code, 1.0) for one in claimed)
            )
            return None
        except Exception as error:
            code = broke("claiming_broke", error)
            self._committer.put(*(self._endings.put_off(one.claim, code, 60.0) for one in claimed))
            return None
        for number, one in enumerate(prepared, 1):
            await self._start(one)
            if number % _STARTED_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._counting.tell()
        return len(prepared)

    def _alive(self, claimed: list[Claimed]) -> list[Claimed]:
        """From here on these attempts live in this process: nobody in it may retake them."""
        for one in claimed:
            self._live[one.claim.grant, one.claim.fence] = one.claim
        if claimed and (self._watching is None or self._watching.done()):
            self._watching = asyncio.get_running_loop().create_task(self._watch_claims())
        return claimed

    async def _watch_claims(self) -> None:
        """While attempts are under way: which of them somebody deleted in another process."""
        while self._live:
            await self._clock.sleep(_LOST_KEPT)
            with suppress(WorkerError):
                await self._look_at_claims()

    async def _look_at_claims(self) -> None:
        asked_at, claims = self._clock.monotonic(), list(self._live.values())
        if claims:
            lost = await self._offload(self._claims.lost, claims)
            self._exchanger.abandoned |= lost & self._live.keys()
            self._exchanger.known_at = asked_at

    async def _ready(self) -> bool:
        """I5: nothing is spent while store or journal cannot take what it would bring."""
        if self._committer.store_away:
            self._replayer.doubtful = True  # it may come back as an older self
            return False
        if self._exchanger.journal_away:
            self._exchanger.journal_away = not await self._journal.probe()
        return not self._exchanger.journal_away and await self._replayer.store_is_whole()

    async def _start(self, found: Prepared | Ending) -> None:
        if not isinstance(found, Prepared):
            self._committer.put(found)
            return
        try:
            ready = await self._exchanger.make_ready(found)
            lane = self._lanes.lane(found) if isinstance(ready, Prepared) else None
        except Exception as error:
            ready, lane = self._before_sending("start_broke", error, found), None
        if isinstance(ready, Prepared) and lane is not None:
            lane.submit(ready)
        elif not isinstance(ready, Prepared):
            self._committer.put(ready)

    def _room(self, provider: str) -> int:
        return 0 if self._committer.is_behind else self._lanes.room(provider)

    def _under_way(self, provider: str) -> bool:
        return any(claim.provider == provider for claim in self._live.values())

    def _drop_overdue(self, provider: str) -> None:
        for prepared in self._lanes.overdue(provider):
            self._committer.put(self._endings.put_off(prepared.claim, "not_sent_pacing", 5.0))

    async def _work(self, prepared: Prepared, lane: Lane) -> None:
        """Whatever breaks, the attempt ends: as long as it counts as alive nobody may retake it."""
        try:
            await self._carry_out(prepared, lane)
        except Exception as error:
            if prepared.sent:  # no ending could be made of it: its claim is for a takeover (C7)
                broke("ending_broke", error, prepared.claim.grant)
                self._live.pop((prepared.claim.grant, prepared.claim.fence), None)
            else:
                self._committer.put(self._before_sending("work_broke", error, prepared))

    def _before_sending(self, what: str, error: Exception, prepared: Prepared) -> Ending:
        claim = prepared.claim
        return self._endings.put_off(claim, broke(what, error, claim.grant), 60.0)

    async def _carry_out(self, prepared: Prepared, lane: Lane) -> None:
        await lane.turn()
        now = self._clock.monotonic()
        pause = lane.pace.shut_until(now)
        if pause is not None:
            self._committer.put(self._endings.put_off(prepared.claim, "host_paused", pause - now))
            return
        counts = self._counting.of(prepared.claim.provider)
        counts.in_flight += 1
        try:
            self._committer.put(*await self._exchanger.carry_out(prepared, lane))
        finally:
            counts.in_flight -= 1

    def _settled(self, group: Sequence[Ending], settled: Settled) -> None:
        now = self._clock.now()
        for ending in group:
            key = (ending.grant, ending.fence)
            claim = self._live.pop(key, None)
            self._exchanger.abandoned.discard(key)
            if claim is None:
                continue
            try:
                self._after(claim, ending, settled.fates.get(key, Fate.LATE), now)
            except Exception as error:  # it is in the store, and the others have to be told too
                broke("after_commit_broke", error, ending.grant)
        self._counting.tell()

    def _after(self, claim: Claim, ending: Ending, fate: Fate, now: datetime) -> None:
        self._count(claim, ending, fate, now)
        if (
            fate is Fate.APPLIED
            and isinstance(ending, Brought)
            and self._lessons.has_one(claim, ending)
        ):
            self._background(self._lessons.learn(claim, ending))
        if fate is Fate.SUSPECT or getattr(ending, "code", "") == "await_reread":
            self._background(self._suspects.reread(claim))

    def _count(self, claim: Claim, ending: Ending, fate: Fate, now: datetime) -> None:
        renewed = fate is Fate.APPLIED and isinstance(ending, Brought)
        verdict = "renewed" if renewed else getattr(ending, "code", fate.value)
        word = "renewed" if renewed else "postponed" if fate is Fate.APPLIED else fate.value
        self._tally[claim.provider, word] += 1
        counts = self._counting.of(claim.provider)
        counts.verdicts[claim.key.tenant, word if word != "postponed" else verdict] += 1
        if renewed and claim.due_at is not None:
            counts.lateness.append(max(0.0, (now - claim.due_at).total_seconds()))
        if renewed and claim.expires_at is not None:
            counts.time_to_expiry.append((claim.expires_at - now).total_seconds())

    async def _extend(self, prepared: Prepared) -> bool:
        began = self._clock.monotonic()
        lease = prepared.rules.lease
        try:
            held = await self._offload(self._claims.extend, [prepared.claim], lease=lease)
        except TransientError:
            return False
        prepared.deadline = began + lease
        return prepared.claim.grant in held

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
