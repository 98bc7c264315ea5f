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
        self,
        kind: K,
        *,
        by: datetime,
        life: timedelta | None,
        access: bool,
        after: GrantId | None,
        limit: int,
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
        declared = await offload(_declared, kind, connections, catalogue)
        if declared is not None:
            count += await _of_kind(
                kind, *declared, last_days=last_days, clock=clock, offload=offload
            )
    return count


async def _of_kind(
    kind: K,
    lifetimes: Lifetimes,
    access: bool,
    *,
    last_days: LastDays[K, E],
    clock: Clock,
    offload: Offload,
) -> int:
    find = _reckoned(lifetimes if kind.renewable else None, clock.now(), access=access)
    count, after = 0, None
    while True:
        rows = await offload(
            last_days.near,
            kind,
            by=clock.now() + LONGEST_WARNING,
            life=lifetimes.refresh,
            access=access,
            after=after,
            limit=_BATCH,
        )
        ends = [(row, end) for row in rows if (end := find(row)) is not None]
        if ends:
            count += await offload(last_days.warn, ends, clock.now())
        if len(rows) < _BATCH:
            return count
        after = rows[-1].grant


def _declared(
    kind: Kind, connections: Connections, catalogue: Catalogue
) -> tuple[Lifetimes, bool] | None:
    """What the entry says, and whether an access token near its end is a bad sign; None: renewing
    moves the end, or nothing can be told.

    Where the access token itself is exchanged, that happens weeks before its end: one that is
    near it was not extended, and only a login brings another.
    """
    try:
        connection = connections.get(kind.tenant, kind.connection)
        if connection is None:
            return None
        provider = catalogue.entry(kind.provider, connection)
    except WorkerError:
        return None
    lifetimes, access = provider.lifetimes, provider.spends == "at" or not kind.renewable
    return (lifetimes, access) if lifetimes.refresh_fixed or access else None


def _reckoned(
    lifetimes: Lifetimes | None, now: datetime, *, access: bool
) -> Callable[[Ending], datetime | None]:
    """The end of a grant, if now is the time to warn of it. `lifetimes` None: not renewable."""

    def timely(began: datetime, end: datetime | None) -> datetime | None:
        warn_at = warning_time(logged_in_at=began, ends_at=end)
        if end is None or warn_at is None or end - began < LEAST_LIFE:
            return None
        return end if warn_at <= now < end else None

    def find(one: Ending) -> datetime | None:
        ends = [timely(one.issued_at, one.expires_at)] if access else []
        if lifetimes is not None:
            began, told = one.logged_in_at, one.refresh_expires_at
            ends.append(
                timely(began, absolute_end(
                    logged_in_at=began, refresh_expires_at=told, lifetimes=lifetimes
                ))
            )  # fmt: skip
        return min((end for end in ends if end is not None), default=None)

    return find
