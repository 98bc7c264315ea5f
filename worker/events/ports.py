"""What accepting and processing need: the store's inbox, and whatever runs the actions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from worker.domain.event import Event, Source
from worker.store.inbox import ClaimedEvent, Settlement


class Inbox(Protocol):
    """See `worker.store.inbox.InboxRepository`, whose docstrings are the contract."""

    def add(
        self, events: Sequence[Event], *, now: datetime, next_at: Sequence[datetime]
    ) -> int: ...

    def add_unreadable(
        self, tenant: str, source: Source, rows: Sequence[tuple[str, bytes, str]], *, now: datetime
    ) -> int: ...

    def claim(
        self,
        *,
        now: datetime,
        lease_for: timedelta,
        limit: int,
        without: Sequence[str] = (),
        held: Collection[tuple[str, str]] = (),
    ) -> list[ClaimedEvent]: ...

    def claim_fresh(
        self,
        *,
        now: datetime,
        lease_for: timedelta,
        limit: int,
        tenants: Sequence[str],
        held: Collection[tuple[str, str]] = (),
    ) -> list[ClaimedEvent]: ...

    def settle(self, settlements: Sequence[Settlement], *, now: datetime) -> int: ...

    def release(self, claimed: Sequence[ClaimedEvent]) -> None: ...


class Run(Protocol):
    """What one pass over an event's actions came to; `worker.actions.Run` meets it."""

    @property
    def progress(self) -> Mapping[str, Any]:
        """Action name → "done", or a table that says how it stands; kept in the inbox row."""

    @property
    def failed(self) -> str | None:
        """Why an action gave up for good; None: none did."""

    @property
    def again(self) -> str | None:
        """Why an action wants another try; None: none does."""

    @property
    def retry_after(self) -> timedelta | None:
        """When that try may come at the soonest, where somebody said so."""

    @property
    def postponed(self) -> bool:
        """The wait is by design (coalescing, a second look) and is no failure."""


class Batch(Protocol):
    """Runs the actions of events that were all accepted before it began, about one subject."""

    async def run(self, event: Event, progress: Mapping[str, Any]) -> Run:
        """Never raises what an action raised."""


class Actions(Protocol):
    """The actions bound to triggers."""

    def batch(self, events: Sequence[Event]) -> Batch: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one process takes in hand."""

    rows: int = 1000  # a claim; so many events about one user cost one pull
    subjects: int = 128  # at once; that many tenants / 8 may hang before another has to wait
    subjects_per_tenant: int = 8  # so that one tenant's flood or outage leaves room for others
    fresh_per_tenant: int = 2  # besides, of what came last, while a tenant has a backlog
    lease_for: timedelta = timedelta(seconds=120)
    attempts: int = 14  # about 12 h of backoff, then the row waits for a human
