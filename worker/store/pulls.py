"""The pull fence: which read of a user, or of a connection, is the latest to have begun (M1).

A fence is taken before the GET. Numbers come from one counter per tenant, so that pulls of
different users are ordered too: an identity that is being linked may be read through both.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, case, literal, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker.store.engine import writing
from worker.store.store_time import StoreTime, store_time
from worker.store.tables import CounterRow, PullRow
from worker.store.types import Instant

_LONG_PAST_ANY_GAP = timedelta(hours=1)  # gaps are seconds, and a purge reckons in days


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A pull that may read now."""

    tenant: str
    subject: str
    fence: int
    at: datetime
    missing: int  # reads in a row, before this one, that found nobody
    last_at: datetime | None  # when the last pull that came to an end began


def user_subject(user_id: str) -> str:
    return f"user:{user_id}"


def connection_subject(name: str) -> str:
    return f"connection:{name}"


class PullRepository:
    """The `pulls` table. Raises everywhere: TransientError when the store is away."""

    def __init__(self, engine: Engine, *, time: StoreTime = store_time) -> None:
        self._engine = engine
        self._time = time

    def begin(self, tenant: str, subject: str, *, now: datetime) -> Begun:
        """Take the fence. Call it before the GET; whatever was read earlier merges no more."""
        with writing(self._engine) as connection:
            now = self._time(connection, now)
            fence = _next_fence(connection, tenant)
            row = connection.execute(_taken(connection, tenant, subject, fence, now)).one()
        return Begun(
            tenant=tenant,
            subject=subject,
            fence=fence,
            at=now,
            missing=row.missing,
            last_at=row.pulled_at,
        )

    def missed(self, begun: Begun) -> int:
        """The read found nobody: how often in a row that is now. 0: a later pull has begun."""
        with writing(self._engine) as connection:
            counted = (
                update(PullRow)
                .where(*_mine(begun))
                .values(missing=PullRow.missing + 1, pulled_at=begun.at)
                .returning(PullRow.missing)
            )
            return connection.execute(counted).scalar_one_or_none() or 0

    def reserve(self, tenant: str, subject: str, *, gap: timedelta, now: datetime) -> timedelta:
        """Zero: this process may pull; else how long to leave it, for somebody does or just did.

        One in each `gap`, over all processes. A reservation from the future (a clock was stepped)
        binds nobody.
        """
        with writing(self._engine) as connection:
            now = self._time(connection, now)
            taken = _insert(connection, PullRow).values(
                tenant=tenant, subject=subject, fence=0, missing=0, reserved_at=now
            )
            free = or_(
                PullRow.reserved_at.is_(None),
                PullRow.reserved_at <= now - gap,
                PullRow.reserved_at > now + gap,
            )
            taken = taken.on_conflict_do_update(
                index_elements=["tenant", "subject"], set_={"reserved_at": now}, where=free
            )
            if connection.execute(taken.returning(PullRow.tenant)).first() is not None:
                return timedelta(0)
            held = select(PullRow.reserved_at).where(
                PullRow.tenant == tenant, PullRow.subject == subject
            )
            at = connection.execute(held).scalar_one() or now
        return max(at + gap - now, timedelta(milliseconds=10))


def still_latest(connection: Connection, begun: Begun) -> bool:
    """Whether `begun` may merge; if so its row is locked, and marked as done at commit."""
    marked = update(PullRow).where(*_mine(begun)).values(missing=0, pulled_at=begun.at)
    return connection.execute(marked).rowcount == 1


def fences_taken(connection: Connection, tenant: str) -> int:
    """The highest fence any pull of the tenant holds. A grant merged now refuses all of them."""
    asked = select(CounterRow.value).where(CounterRow.name == _counter(tenant))
    return connection.execute(asked).scalar_one()


def _counter(tenant: str) -> str:
    return f"pulls:{tenant}"


def _next_fence(connection: Connection, tenant: str) -> int:
    counted = _insert(connection, CounterRow).values(name=_counter(tenant), value=1)
    counted = counted.on_conflict_do_update(
        index_elements=["name"], set_={"value": CounterRow.value + 1}
    )
    value: int = connection.execute(counted.returning(CounterRow.value)).scalar_one()
    return value


def _taken(connection: Connection, tenant: str, subject: str, fence: int, now: datetime) -> Any:
    """Who pulls has said so: that keeps the row while it does (`Purge.pulls`).

    But it reserves nothing, or a gap would begin anew with every read that nobody had to reserve:
    an event would wait behind each forced read, and behind each user of a backfill.
    """
    said = now - _LONG_PAST_ANY_GAP
    stale = or_(PullRow.reserved_at.is_(None), PullRow.reserved_at < said)
    marked = case((stale, literal(said, Instant())), else_=PullRow.reserved_at)
    taken = _insert(connection, PullRow).values(
        tenant=tenant, subject=subject, missing=0, fence=fence, reserved_at=said
    )
    return taken.on_conflict_do_update(
        index_elements=["tenant", "subject"],
        set_={"fence": fence, "reserved_at": marked},
    ).returning(PullRow.missing, PullRow.pulled_at)


def _insert(connection: Connection, table: Any) -> Any:
    """`INSERT … ON CONFLICT` is each dialect's own, though both spell it alike."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def _mine(begun: Begun) -> tuple[Any, ...]:
    return (
        PullRow.tenant == begun.tenant,
        PullRow.subject == begun.subject,
        PullRow.fence == begun.fence,
    )
