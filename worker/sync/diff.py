"""How far we are from the tenant: read and compared, and left as it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from worker.auth0 import ManagementApi, Priority
from worker.domain.errors import (
    ConfigurationError,
    NotFoundError,
    TransientError,
    WorkerError,
)
from worker.domain.merge import Arrival
from worker.domain.ports import Clock, Offload
from worker.store.findings import FindingRepository
from worker.store.merge_transaction import MergedGrant
from worker.sync.listing import EVERYBODY, Place, pages_of_users
from worker.sync.puller import Puller
from worker.sync.reconcile import ORPHANED_HERE, difference_of

_LATEST = "last_login:-1"
_AT_ONCE = 8
_CHUNK = 100
_TRIES = 3


class Compare(Protocol):
    """What a merge would do; the store's `Comparison`."""

    def __call__(self, arrivals: Sequence[Arrival], *, now: datetime) -> Sequence[MergedGrant]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    user_id: str
    kind: str  # as the divergence metric counts: missing_here, newer_upstream, orphaned_here
    connection: str | None = None  # None: the whole user
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    read: int = 0
    failed: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()

    @property
    def counts(self) -> Mapping[str, int]:
        return Counter(one.kind for one in self.differences)


Report = Callable[[Compared], None]


class Diff:
    """Compares one tenant's users with our grants. Draws on the budget as a backfill does."""

    def __init__(
        self,
        api: ManagementApi,
        puller: Puller,
        compare: Compare,
        findings: FindingRepository,
        *,
        clock: Clock,
        offload: Offload,
    ) -> None:
        self._api = api
        self._puller = puller
        self._compare = compare
        self._findings = findings
        self._clock = clock
        self._offload = offload

    async def run(self, sample: int | None, *, report: Report = lambda _: None) -> Compared:
        """Compare `sample` users of ours, at random, and as many who logged in last; None: all.

        Raises: ConfigurationError, PermanentError; users who fail are listed.
        """
        done, seen = Compared(), set[str]()
        async for page in self._everybody() if sample is None else self._some(sample):
            fresh = [user_id for user_id in dict.fromkeys(page) if user_id not in seen]
            seen.update(fresh)
            done = await self._compared(fresh, done)
            report(done)
        return done

    async def _everybody(self) -> AsyncIterator[Sequence[str]]:
        async for page in pages_of_users(self._api, Place()):
            yield page
        after = ""
        while users := await self._offload(
            self._findings.users, self._api.tenant, after=after, limit=_CHUNK
        ):
            yield users
            after = users[-1]

    async def _some(self, sample: int) -> AsyncIterator[Sequence[str]]:
        yield await self._offload(self._findings.some_users, self._api.tenant, limit=sample)
        for page in range(-(-sample // _CHUNK)):
            hits = await self._api.search(EVERYBODY, page=page, sort=_LATEST)
            yield [hit.user_id for hit in hits][: sample - page * _CHUNK]

    async def _compared(self, users: Sequence[str], done: Compared) -> Compared:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(user_id: str) -> Sequence[Difference] | None:
            async with gate:
                return await self._one(user_id)

        found = await asyncio.gather(*(one(user_id) for user_id in users))
        failed = [user for user, told in zip(users, found, strict=True) if told is None]
        told = [difference for told in found for difference in told or ()]
        return replace(
            done,
            read=done.read + len(users) - len(failed),
            failed=(*done.failed, *failed),
            differences=(*done.differences, *told),
        )

    async def _one(self, user_id: str) -> Sequence[Difference] | None:
        """None: it could not be read."""
        for tries in range(_TRIES):
            try:
                return await self._differences(user_id)
            except ConfigurationError:
                raise
            except TransientError as error:
                wait = error.retry_after or timedelta(seconds=2**tries)
                await self._clock.sleep(wait.total_seconds())
            except WorkerError:
                return None
        return None

    async def _differences(self, user_id: str) -> Sequence[Difference]:
        tenant = self._api.tenant
        try:
            user = await self._api.user(user_id, priority=Priority.BACKFILL)
        except NotFoundError:
            held = await self._offload(self._findings.of_user, tenant, user_id)
            return [Difference(user_id=user_id, kind=ORPHANED_HERE)] if held else []
        arrivals = await self._puller.arrivals(tenant, user)
        compared = await self._offload(self._compare, arrivals, now=self._clock.now())
        return [
            Difference(
                user_id=user_id,
                kind=kind,
                connection=grant.key.connection,
                why=grant.decision.why.value,
            )
            for grant in compared
            if (kind := difference_of(grant.decision)) is not None
        ]
