"""The lanes of a process, which provider uses which, and the pauses that processes share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from worker.domain.errors import TransientError
from worker.domain.ports import Clock, Offload
from worker.renewal.lanes import Lane, Work
from worker.renewal.ports import Hosts
from worker.renewal.prepared import Prepared

FIRST_CLAIM = 16  # of a provider whose hosts are not known yet
LARGEST_CLAIM = 400
_PAUSES_KEPT = 2.0  # seconds between looks at pauses that other processes learnt of
_WORTH_SHARING = 10.0  # seconds of a pause: a shorter one each process learns by itself


class HostLanes:
    """One per engine."""

    def __init__(
        self,
        hosts: Hosts,
        *,
        clock: Clock,
        offload: Offload,
        work: Work,
        background: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._hosts = hosts
        self._clock = clock
        self._offload = offload
        self._work = work
        self._background = background
        self._lanes: dict[str, Lane] = {}  # by host
        self._hosts_of: dict[str, set[str]] = {}  # by provider
        self._room_again = asyncio.Event()
        self._pauses: Mapping[str, datetime] = {}  # of hosts, as all processes share them
        self._pauses_until = float("-inf")

    def lane(self, prepared: Prepared) -> Lane:
        host = prepared.request.host
        lane = self._lanes.get(host)
        if lane is None:
            lane = self._lanes[host] = Lane(
                host,
                prepared.provider.limits,
                clock=self._clock,
                work=self._work,
                room_again=self._room_again.set,
            )
            self._pause(lane)
        self._hosts_of.setdefault(prepared.claim.provider, set()).add(host)
        return lane

    def slot(self, host: str) -> float | None:
        """For questions beside renewals: a place in the host's rate; None: not now."""
        lane, now = self._lanes.get(host), self._clock.monotonic()
        if lane is None:
            return 0.0
        return None if lane.pace.shut_until(now) is not None else lane.pace.slot(now)

    def room(self, provider: str) -> int:
        """How many more of a provider's grants may be claimed."""
        lanes = self._of(provider)
        if not lanes:
            return FIRST_CLAIM
        return min(sum(lane.room for lane in lanes), LARGEST_CLAIM)

    async def room_again(self, at_most: float) -> None:
        """Until some lane has room again; a paused one says nothing, so for seconds `at_most`."""
        self._room_again.clear()
        waits = [
            asyncio.ensure_future(self._room_again.wait()),
            asyncio.ensure_future(self._clock.sleep(at_most)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def overdue(self, provider: str) -> Iterator[Prepared]:
        """Attempts that waited too long in a lane, behind a host that hangs; they are taken out."""
        for lane in self._of(provider):
            yield from lane.overdue()

    def tasks(self) -> set[asyncio.Task[None]]:
        return {task for lane in self._lanes.values() for task in lane.tasks()}

    def share_pause(self, host: str, until: float, why: str) -> None:
        """Tell the other processes, if it is long enough to matter to them."""
        seconds = until - self._clock.monotonic()
        if seconds >= _WORTH_SHARING:
            end = self._clock.now() + timedelta(seconds=seconds)
            self._background(self._tell_pause(host, end, why))

    async def learn_pauses(self) -> None:
        """Raises: TransientError, the store is away."""
        now = self._clock.monotonic()
        if now < self._pauses_until:
            return
        self._pauses_until = now + _PAUSES_KEPT
        self._pauses = await self._offload(self._hosts.blocked, self._clock.now())
        for lane in self._lanes.values():
            self._pause(lane)

    async def _tell_pause(self, host: str, until: datetime, why: str) -> None:
        try:
            await self._offload(self._hosts.block, host, until, why, now=self._clock.now())
        except TransientError:
            return  # each process learns it by itself

    def _pause(self, lane: Lane) -> None:
        until = self._pauses.get(lane.host)
        if until is not None:
            seconds = (until - self._clock.now()).total_seconds()
            lane.pace.pause(self._clock.monotonic() + seconds)

    def _of(self, provider: str) -> list[Lane]:
        return [self._lanes[host] for host in self._hosts_of.get(provider, ())]
