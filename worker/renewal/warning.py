"""Warns of ends that no renewal can move, while the user can still log in again without a gap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from worker.domain.errors import WorkerError
from worker.domain.exchange import Lifetimes
from worker.domain.grant import GrantId
from worker.domain.ports import Catalogue, Clock, Connections, Offload
from worker.domain.schedule import LONGEST_WARNING, absolute_end, warning_time

LEAST_LIFE = timedelta(days=1)  # what never lives longer is known to end; nobody wants to hear it
_BATCH = 500


class Kind(Protocol):
    """Grants that share what is declared about their end."""

    @property
    def tenant(self) -> str: ...
    @property
    def connection(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def renewable(self) -> bool: ...


class Ending(Protocol):
    @property
    def grant(self) -> GrantId: ...
    @property
    def logged_in_at(self) -> datetime: ...
    @property
    def issued_at(self) -> datetime: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def refresh_expires_at(self) -> datetime | None: ...


K = TypeVar("K", bound=Kind)
E = TypeVar("E", bound=Ending)


class LastDays(Protocol[K, E]):
    """Synchronous. Raises everywhere: TransientError, the store is away."""

    def kinds(self) -> Sequence[K]: ...

    def near(
        self, kind: K, *, by: datetime, life: timedelta | None, after: GrantId | None, limit: int
    ) -> Sequence[E]: ...

    def warn(self, ends: Sequence[tuple[E, datetime]], now: datetime) -> int: ...


async def warn(
    *,
    last_days: LastDays[K, E],
    connections: Connections,
    catalogue: Catalogue,
    clock: Clock,
    offload: Offload,
) -> int:
    """Look through all grants once; how many were warned of. Raises: TransientError."""
    count = 0
    for kind in await offload(last_days.kinds):
        lifetimes = await offload(_declared, kind, connections, catalogue)
        if lifetimes is not None:
            count += await _of_kind(
                kind, lifetimes, last_days=last_days, clock=clock, offload=offload
            )
    return count


async def _of_kind(
    kind: K,
    lifetimes: Lifetimes,
    *,
    last_days: LastDays[K, E],
    clock: Clock,
    offload: Offload,
) -> int:
    find = _reckoned(lifetimes if kind.renewable else None, clock.now())
    count, after = 0, None
    while True:
        rows = await offload(
            last_days.near,
            kind,
            by=clock.now() + LONGEST_WARNING,
            life=lifetimes.refresh,
            after=after,
            limit=_BATCH,
        )
        ends = [(row, end) for row in rows if (end := find(row)) is not None]
        if ends:
            count += await offload(last_days.warn, ends, clock.now())
        if len(rows) < _BATCH:
            return count
        after = rows[-1].grant


def _declared(kind: Kind, connections: Connections, catalogue: Catalogue) -> Lifetimes | None:
    """What the entry says; None: renewing moves the end, or nothing can be told."""
    try:
        connection = connections.get(kind.tenant, kind.connection)
        if connection is None:
            return None
        lifetimes = catalogue.entry(kind.provider, connection).lifetimes
    except WorkerError:
        return None
    return lifetimes if lifetimes.refresh_fixed or not kind.renewable else None


def _reckoned(lifetimes: Lifetimes | None, now: datetime) -> Callable[[Ending], datetime | None]:
    """The end of a grant, if now is the time to warn of it. `lifetimes` None: not renewable."""

    def find(one: Ending) -> datetime | None:
        if lifetimes is None:
            began, end = one.issued_at, one.expires_at
        else:
            began = one.logged_in_at
            end = absolute_end(
                logged_in_at=began, refresh_expires_at=one.refresh_expires_at, lifetimes=lifetimes
            )
        warn_at = warning_time(logged_in_at=began, ends_at=end)
        if end is None or warn_at is None or end - began < LEAST_LIFE:
            return None
        return end if warn_at <= now < end else None

    return find
