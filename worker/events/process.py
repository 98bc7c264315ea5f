"""Working the inbox off: claim, run the bound actions, write down how far each one came."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from worker.domain.ports import Clock, Offload
from worker.events.backoff import settlement
from worker.events.ports import Actions, Inbox, Limits
from worker.monitoring.logs import logger
from worker.monitoring.metrics import EVENT_LATENCY, EVENTS
from worker.store.inbox import ClaimedEvent, Settlement

_log = logger(__name__)

_SETTLE_EVERY = 1.0  # seconds of work that a crash may repeat
_LEASE_MARGIN = timedelta(seconds=30)  # one action's time-out and some
_LOOK_AGAIN = 0.2  # seconds, while subjects are under way and nothing new can be claimed

Subject = tuple[str, str]


class Processor:
    """Runs the actions of inbox rows, coalesced by subject: the user or connection looked at.

    All rows of one subject that were claimed together share one batch, so that a thousand events
    about one user are one pull. Subjects run side by side, a bounded number per tenant, the oldest
    first; while a tenant has a backlog, a part of it is given to what came last: somebody who logs
    in after an outage does not wait until all who did during it have been read.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        actions: Actions,
        clock: Clock,
        offload: Offload,
        limits: Limits | None = None,
    ) -> None:
        self._inbox = inbox
        self._actions = actions
        self._clock = clock
        self._offload = offload
        self._limits = limits or Limits()
        self._stopping = False

    def stop(self) -> None:
        """Begin nothing more; what is under way ends."""
        self._stopping = True

    async def process(self, *, budget_seconds: float) -> dict[str, int]:
        """Work until nothing is due or the time is spent; returns rows by how they stand.

        What was claimed and not begun by then is given back. Raises: TransientError when the
        store is away.
        """
        work = _Work(self._clock.monotonic() + budget_seconds)
        gate = asyncio.Semaphore(self._limits.subjects)
        gates: dict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(self._limits.subjects_per_tenant)
        )
        try:
            while not self._over(work):
                claimed = await self._claim(work)
                for subject, rows in _by_subject(claimed).items():
                    work.begin(subject, self._subject(rows, work, gates[subject[0]], gate))
                for subject, rows in _by_subject(await self._claim_fresh(work)).items():
                    work.begin(subject, self._subject(rows, work, gate), fresh=True)
                if not claimed and not work.running:
                    break
                if not claimed:
                    # not after each that ends: with thousands under way that would be quadratic
                    await asyncio.wait(work.running, timeout=_LOOK_AGAIN)
        finally:
            if work.running:
                await asyncio.wait(work.running)
        if work.broken:
            raise work.broken
        return dict(work.counts)

    def _over(self, work: _Work) -> bool:
        return self._stopping or work.broken is not None or self._clock.monotonic() >= work.deadline

    async def _claim(self, work: _Work) -> list[ClaimedEvent]:
        """Of a tenant with enough in hand nothing, and of a subject in hand nothing more: a second
        look at it would only wait for the first, with all its rows in memory.
        """
        busy = self._busy(work)
        return await self._offload(
            self._inbox.claim,
            now=self._clock.now(),
            lease_for=self._limits.lease_for,
            limit=self._limits.rows,
            without=list(busy),
            held=[subject for subject in work.subjects if subject[0] not in busy],
        )

    async def _claim_fresh(self, work: _Work) -> list[ClaimedEvent]:
        """Of a tenant with enough in hand, what came last, a little at a time."""
        most = self._limits.fresh_per_tenant
        tenants = [tenant for tenant in self._busy(work) if work.fresh[tenant] < most]
        if not tenants:
            return []
        return await self._offload(
            self._inbox.claim_fresh,
            now=self._clock.now(),
            lease_for=self._limits.lease_for,
            limit=most,
            tenants=tenants,
            held=[subject for subject in work.looked_at if subject[0] in tenants],
        )

    def _busy(self, work: _Work) -> set[str]:
        return {t for t, n in work.tenants.items() if n >= self._limits.subjects_per_tenant}

    async def _subject(
        self, rows: list[ClaimedEvent], work: _Work, *gates: asyncio.Semaphore
    ) -> None:
        async with AsyncExitStack() as stack:
            for gate in gates:
                await stack.enter_async_context(gate)
            subject = rows[0].event.tenant, rows[0].event.subject
            work.looked_at[subject] += 1
            try:
                await self._run(rows, work)
            except Exception as error:  # mostly the store; leases end, and others take the rows
                work.broken = error
            finally:
                _less(work.looked_at, subject)

    async def _run(self, rows: list[ClaimedEvent], work: _Work) -> None:
        batch = self._actions.batch([row.event for row in rows])
        done: list[Settlement] = []
        settled_at = self._clock.monotonic()
        for index, claimed in enumerate(rows):
            if self._over(work) or claimed.lease_until - self._clock.now() < _LEASE_MARGIN:
                await self._offload(self._inbox.release, rows[index:])
                break
            run = await batch.run(claimed.event, claimed.progress)
            spread = random.random()  # noqa: S311  # spreads retries, guards nothing
            limit = self._limits.attempts
            done.append(
                settlement(claimed, run, now=self._clock.now(), spread=spread, attempts=limit)
            )
            if self._clock.monotonic() - settled_at >= _SETTLE_EVERY:
                await self._settle(done, work)
                done, settled_at = [], self._clock.monotonic()
        await self._settle(done, work)

    async def _settle(self, done: Sequence[Settlement], work: _Work) -> None:
        if not done:
            return
        now = self._clock.now()
        await self._offload(self._inbox.settle, done, now=now)
        for one in done:
            outcome = "retry" if one.state == "new" else one.state
            event = one.claimed.event
            work.counts[outcome] += 1
            EVENTS.labels(event.tenant, event.source.value, event.trigger.value, outcome).inc()
            if outcome == "done":
                EVENT_LATENCY.labels(event.tenant).observe(
                    (now - one.claimed.received_at).total_seconds()
                )
            elif outcome == "failed":
                _log.warning("event failed", tenant=event.tenant, row=one.claimed.id, why=one.error)


class _Work:
    """What one call of `process` has in hand."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.running: set[asyncio.Task[None]] = set()
        self.subjects: Counter[Subject] = Counter()  # claimed
        self.looked_at: Counter[Subject] = Counter()  # begun: few
        self.tenants: Counter[str] = Counter()
        self.fresh: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.broken: Exception | None = None

    def begin(
        self, subject: Subject, work: Coroutine[Any, Any, None], *, fresh: bool = False
    ) -> None:
        task = asyncio.ensure_future(work)
        self.running.add(task)
        self.subjects[subject] += 1
        self.tenants[subject[0]] += 1
        self.fresh[subject[0]] += fresh
        task.add_done_callback(lambda ended: self._end(subject, ended, fresh))

    def _end(self, subject: Subject, task: asyncio.Task[None], fresh: bool) -> None:
        self.running.discard(task)
        _less(self.subjects, subject)
        self.tenants[subject[0]] -= 1
        self.fresh[subject[0]] -= fresh


def _less(counts: Counter[Subject], subject: Subject) -> None:
    counts[subject] -= 1
    if not counts[subject]:
        del counts[subject]


def _by_subject(claimed: Sequence[ClaimedEvent]) -> dict[Subject, list[ClaimedEvent]]:
    subjects: dict[Subject, list[ClaimedEvent]] = defaultdict(list)
    for row in claimed:
        subjects[row.event.tenant, row.event.subject].append(row)
    return subjects
