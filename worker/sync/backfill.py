"""All users, or all connections, pulled once: for a tenant that is new to us, or after a gap."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from worker.auth0 import ManagementApi, Priority
from worker.auth0.budget import SHARE
from worker.domain.errors import (
    ConfigurationError,
    NotFoundError,
    PermanentError,
    TransientError,
    WorkerError,
)
from worker.domain.ports import Clock
from worker.sync.listing import Place, pages_of_users
from worker.sync.puller import Puller

_TRIES = 4  # of one user, before he is listed as failed
_AT_ONCE = 8  # the budget sets the pace; these only hide latency
_CHUNK = 100  # users between two checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it is. `failed` ids are to be tried again by hand; the rest needs nobody."""

    done: int = 0
    gone: int = 0  # no such user: deleted since, or linked to another
    failed: tuple[str, ...] = ()
    total: int | None = None  # of a whole tenant as the search index has it; None: not told
    seconds: float = 0.0
    ceiling: float = 0.0  # requests per second that the budget allows for

    @property
    def rate(self) -> float:
        """Users per second so far."""
        return (self.done + self.gone) / self.seconds if self.seconds else 0.0

    @property
    def eta(self) -> timedelta | None:
        if self.total is None or not self.rate:
            return None
        left = max(0, self.total - self.done - self.gone - len(self.failed))
        return timedelta(seconds=left / self.rate)


class Checkpoint(Protocol):
    """Where a backfill that was stopped goes on."""

    def load(self) -> dict[str, Any]: ...

    def save(self, state: dict[str, Any]) -> None: ...


class FileCheckpoint:
    """A small JSON file, replaced whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Any]:
        try:
            state = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise ConfigurationError(f"{self._path} is not a checkpoint; remove it") from None
        return state if isinstance(state, dict) else {}

    def save(self, state: dict[str, Any]) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        os.replace(fresh, self._path)

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)


Report = Callable[[Progress], None]


class Backfill:
    """One tenant's. Draws on the budget as the last in line, so that live events come first."""

    def __init__(self, api: ManagementApi, puller: Puller, *, clock: Clock) -> None:
        self._api = api
        self._puller = puller
        self._clock = clock

    async def users(
        self,
        ids: Iterable[str] | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        report: Report = lambda progress: None,
    ) -> Progress:
        """Pull the users named, or every user of the tenant.

        Args:
            ids: None: found by search, by time of creation. From a file or a pipe otherwise; the
                same ones in the same order when it is resumed.
            report: called after each chunk of 100.
        Raises: ConfigurationError, PermanentError (more than 1000 users of one millisecond);
            single users that fail are listed in the result.
        """
        began = self._clock.monotonic()
        listed = ids if ids is None or isinstance(ids, Sequence) else list(ids)
        total = await self._left(checkpoint) if listed is None else len(listed)
        progress = Progress(total=total, ceiling=self._ceiling())
        async for chunk, state in self._chunks(listed, checkpoint):
            progress = await self._pulled(chunk, progress)
            progress = replace(progress, seconds=self._clock.monotonic() - began)
            if checkpoint is not None:
                checkpoint.save(state)
            report(progress)
        return progress

    async def connections(self, known: Iterable[str] = ()) -> Progress:
        """Read every connection anew; those of `known` that the tenant has no more are noted."""
        names = [found.name async for found in self._api.connections()]
        progress = Progress(total=len(names))
        for name in dict.fromkeys([*names, *known]):
            try:
                await self._puller.connection(self._api.tenant, name, priority=Priority.BACKFILL)
                progress = replace(progress, done=progress.done + 1)
            except NotFoundError:
                progress = replace(progress, gone=progress.gone + 1)
            except TransientError:
                progress = replace(progress, failed=(*progress.failed, name))
        return progress

    async def _chunks(
        self, ids: Sequence[str] | None, checkpoint: Checkpoint | None
    ) -> AsyncIterator[tuple[Sequence[str], dict[str, Any]]]:
        """(ids, what to save once they are pulled)."""
        state = checkpoint.load() if checkpoint else {}
        if ids is None:
            place = Place(**_place(state))
            async for page in pages_of_users(self._api, place):
                told = {"since": place.since, "at_since": sorted(place.at_since)}
                yield page, told
            return
        for start in range(int(state.get("done", 0)), len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            yield chunk, {"done": start + len(chunk)}

    async def _left(self, checkpoint: Checkpoint | None) -> int | None:
        """How many users lie ahead; for the progress alone, so whatever is in the way: None."""
        place = Place(**_place(checkpoint.load() if checkpoint else {}))
        try:
            return await self._api.count(f"created_at:[{place.since} TO *]")
        except ConfigurationError:
            raise
        except WorkerError:
            return None

    async def _pulled(self, chunk: Sequence[str], progress: Progress) -> Progress:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(user_id: str) -> str:
            async with gate:
                return await self._one(user_id)

        fates = await asyncio.gather(*(one(user_id) for user_id in chunk))
        failed = [u for u, fate in zip(chunk, fates, strict=True) if fate == "failed"]
        return replace(
            progress,
            done=progress.done + fates.count("done"),
            gone=progress.gone + fates.count("gone"),
            failed=(*progress.failed, *failed),
        )

    async def _one(self, user_id: str) -> str:
        for tries in range(_TRIES):
            try:
                await self._puller.user(self._api.tenant, user_id, priority=Priority.BACKFILL)
            except NotFoundError:
                return "gone"
            except ConfigurationError:
                raise
            except PermanentError:
                return "failed"
            except WorkerError as error:
                wait = getattr(error, "retry_after", None) or timedelta(seconds=2**tries)
                await self._clock.sleep(wait.total_seconds())
            else:
                return "done"
        return "failed"

    def _ceiling(self) -> float:
        _, bucket = self._api.budget.plan.bucket("users")
        return bucket.rate * SHARE


def _place(state: dict[str, Any]) -> dict[str, Any]:
    if "since" not in state:
        return {}
    return {"since": str(state["since"]), "at_since": set(state.get("at_since", ()))}
