"""All users, or all connections, pulled once: for a tenant that is new to us, or after a gap."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from worker.auth0 import ManagementApi, Priority
from worker.auth0.budget import SHARE
from worker.domain.errors import (
    ConfigurationError,
    NotFoundError,
    PermanentError,
    TransientError,
    WorkerError,
)
from worker.domain.ports import Clock, Offload
from worker.sync.listing import Place, pages_of_users
from worker.sync.progress import Checkpoint, Progress, resumed_from, saved_of
from worker.sync.puller import Puller

_TRIES = 4  # of one user, before he is listed as failed
_AT_ONCE = 8  # the budget sets the pace; these only hide latency
_CHUNK = 100  # users between two checkpoints
_ALL_AWAY = 16  # users in a row who cannot be read: it is not they who are the trouble

Report = Callable[[Progress], None]
_Chunks = AsyncIterator[tuple[Sequence[str], Mapping[str, Any]]]  # (ids, place once they are read)


class Backfill:
    """One tenant's. Draws on the budget as the last in line, so that live events come first."""

    def __init__(
        self,
        api: ManagementApi,
        puller: Puller,
        *,
        checkpoint: Checkpoint,
        clock: Clock,
        offload: Offload,
    ) -> None:
        self._api = api
        self._puller = puller
        self._checkpoint = checkpoint
        self._clock = clock
        self._offload = offload

    async def users(
        self,
        ids: Sequence[str] | None = None,
        *,
        anew: bool = False,
        report: Report = lambda progress: None,
    ) -> Progress:
        """Pull the users named, or every user of the tenant, from where it was stopped.

        Whoever failed is tried once more at the end, and listed in the result if that fails too.

        Args:
            ids: None: found by search, by time of creation. The same list is known again.
            anew: from the beginning.
            report: called after each user.
        Raises: TransientError when nobody can be read, for the store or Auth0 is away: what was
            read is saved. ConfigurationError; PermanentError (more than 1000 users of one
            millisecond, or another run of the same has taken over).
        """
        what, run = "search" if ids is None else digest_of(ids), secrets.token_hex(8)
        ours = (self._api.tenant, what, run)
        begin = partial(self._checkpoint.begin, *ours, anew=anew)
        progress, place = resumed_from(await self._offload(begin, now=self._clock.now()))
        left = await self._left(place) if ids is None else len(ids) - int(place.get("at", 0))
        total = None if left is None else progress.passed + left
        progress = replace(progress, total=total, ceiling=self._ceiling("users"))
        reading = _Reading(self._api.tenant, self._puller, self._clock, progress, report)
        async for chunk, ahead in self._searched(place) if ids is None else _parts(ids, place):
            await reading.chunk(chunk)
            state = saved_of(reading.progress, ahead)
            save = partial(self._checkpoint.save, *ours, state)
            if not await self._offload(save, now=self._clock.now()):
                raise PermanentError("another run has taken this backfill over", code="taken_over")
        await reading.once_more()
        await self._offload(self._checkpoint.end, *ours)
        return reading.progress

    async def connections(
        self, known: Iterable[str] = (), *, report: Report = lambda progress: None
    ) -> Progress:
        """Read every connection anew; those of `known` that the tenant has no more are noted.

        `report` is called after each.
        """
        began = self._clock.monotonic()
        listed = [found.name async for found in self._api.connections()]
        names = list(dict.fromkeys([*listed, *known]))
        progress = Progress(total=len(names), ceiling=self._ceiling("connections"))
        for name in names:
            try:
                await self._puller.connection(self._api.tenant, name, priority=Priority.BACKFILL)
                progress = replace(progress, done=progress.done + 1, trouble="")
            except NotFoundError:
                progress = replace(progress, gone=progress.gone + 1)
            except TransientError as error:
                failed = (*progress.failed, name)
                progress = replace(progress, failed=failed, trouble=error.code)
            progress = replace(progress, seconds=self._clock.monotonic() - began)
            report(progress)
        return progress

    async def _searched(self, saved: Mapping[str, Any]) -> _Chunks:
        place = Place(**_place(saved))
        async for page in pages_of_users(self._api, place):
            yield page, {"since": place.since, "at_since": sorted(place.at_since)}

    async def _left(self, saved: Mapping[str, Any]) -> int | None:
        """How many users lie ahead; for the progress alone, so whatever is in the way: None."""
        place = Place(**_place(saved))
        try:
            found = await self._api.count(f"created_at:[{place.since} TO *]")
            return None if found is None else found - len(place.at_since)
        except ConfigurationError:
            raise
        except WorkerError:
            return None

    def _ceiling(self, group: str) -> float:
        _, bucket = self._api.budget.plan.bucket(group)
        return bucket.rate * SHARE


class _Reading:
    """One run, as it goes on."""

    def __init__(
        self, tenant: str, puller: Puller, clock: Clock, progress: Progress, report: Report
    ) -> None:
        self.progress = progress
        self._tenant = tenant
        self._puller = puller
        self._clock = clock
        self._report = report
        self._began = clock.monotonic()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._away = 0  # users in a row, up to now

    async def chunk(self, ids: Sequence[str]) -> None:
        """Raises: TransientError when none can be read, with the progress as it was before."""
        before = self.progress
        fates = await asyncio.gather(*map(self._passed, ids))
        if ids and (self._away >= _ALL_AWAY or fates.count("away") == len(ids)):
            why, self.progress = self.progress.trouble, before
            raise TransientError(
                f"{self._tenant}: nobody can be read ({why}); nothing is lost: run the same again,"
                " it goes on where it is now",
                code="nobody_readable",
            )

    async def once_more(self) -> None:
        """Those who failed."""
        failed = self.progress.failed
        self.progress = replace(self.progress, failed=())
        for start in range(0, len(failed), _CHUNK):
            await asyncio.gather(*map(self._passed, failed[start : start + _CHUNK]))

    async def _passed(self, user_id: str) -> str:
        async with self._gate:
            if self._away >= _ALL_AWAY:
                return "away"
            fate = await self._fate(user_id)
        self._away = self._away + 1 if fate == "away" else 0
        now = self.progress
        self.progress = replace(
            now,
            done=now.done + (fate == "done"),
            gone=now.gone + (fate == "gone"),
            failed=(*now.failed, user_id) if fate in ("failed", "away") else now.failed,
            seconds=self._clock.monotonic() - self._began,
        )
        self._report(self.progress)
        return fate

    async def _fate(self, user_id: str) -> str:
        for tries in range(_TRIES):
            try:
                await self._puller.user(self._tenant, user_id, priority=Priority.BACKFILL)
            except NotFoundError:
                return "gone"
            except ConfigurationError:
                raise
            except PermanentError as error:
                self._note(error.code)
                return "failed"
            except WorkerError as error:
                self._note(error.code)
                wait = getattr(error, "retry_after", None) or timedelta(seconds=2**tries)
                await self._clock.sleep(wait.total_seconds())
            else:
                self._note("")
                return "done"
        return "away"

    def _note(self, trouble: str) -> None:
        self.progress = replace(self.progress, trouble=trouble)


def digest_of(ids: Sequence[str]) -> str:
    """What a list of ids is known by: the same ones in the same order."""
    return "ids:" + hashlib.sha256("\n".join(ids).encode()).hexdigest()[:32]


async def _parts(ids: Sequence[str], saved: Mapping[str, Any]) -> _Chunks:
    for start in range(int(saved.get("at", 0)), len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        yield chunk, {"at": start + len(chunk)}


def _place(saved: Mapping[str, Any]) -> dict[str, Any]:
    if "since" not in saved:
        return {}
    return {"since": str(saved["since"]), "at_since": set(saved.get("at_since", ()))}
