"""What is done with is forgotten: by the hour, in batches, until nothing more is old enough.

Disk is bounded by how long things are kept and not by how fast they come: each kind goes on until
a batch finds less than it may take. What a bounded time did not suffice for is taken next hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import Engine

from worker.domain.ports import Clock, Offload
from worker.store.dead_messages import DeadMessageRepository
from worker.store.inbox import InboxRepository
from worker.store.notices import NoticeRepository
from worker.store.purging import BATCH, Purge

KEEP = timedelta(days=14)  # events and notices that are done with, tokens proven spent
KEEP_DEAD = timedelta(days=90)  # what failed or nobody could read; users who are gone
LONGEST = 420.0  # seconds for each kind, so that all of them fit into the hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    engine: Engine
    clock: Clock
    offload: Offload
    stopping: Callable[[], bool]
    batch: int = BATCH

    async def round(self) -> Mapping[str, int]:
        """Returns rows by kind."""
        return {kind: await self._all(take) for kind, take in self._kinds().items()}

    def _kinds(self) -> Mapping[str, Callable[[], int]]:
        now = self.clock.now()
        done, dead = now - KEEP, now - KEEP_DEAD
        purge, hour = Purge(self.engine, limit=self.batch), int(now.timestamp() // 3600)
        inbox, notices = InboxRepository(self.engine), NoticeRepository(self.engine)
        messages = DeadMessageRepository(self.engine)
        return {
            "candidates": partial(purge.candidates, before=done),
            "fingerprints": partial(purge.fingerprints, before=done, part=hour),
            "pulls": partial(purge.pulls, before=dead, now=now, part=hour),
            "given_up": partial(purge.given_up, before=dead),
            "events": partial(inbox.purge, before=done, limit=self.batch),
            "notices": partial(notices.purge, before=done, limit=self.batch),
            "dead_messages": partial(messages.purge, before=dead, limit=self.batch),
        }

    async def _all(self, take: Callable[[], int]) -> int:
        until, gone, more = self.clock.monotonic() + LONGEST, 0, True
        while more and not self.stopping() and self.clock.monotonic() < until:
            taken = await self.offload(take)
            gone += taken
            more = taken >= self.batch
        return gone
