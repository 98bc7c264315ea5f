"""The inbox: events as accepted, and how far their actions have come.

An event is a row before its sender hears 2xx. The row holds ids, never a body; only what could
not be read is kept as it came, cut to 64 KiB.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.exc import OperationalError

from worker.domain.event import Event, Source, Trigger
from worker.store.engine import reading, writing
from worker.store.tables import InboxRow
from worker.store.types import to_micros

_inbox = cast(Table, InboxRow.__table__)
_TURN = 0x65766572_696E626F  # "everinbo", as a bigint
_LONGEST_TURN = 500  # milliseconds; a claim takes ten

# The whole batch is one JSON parameter: encoding it costs a tenth of what six arrays do. In key
# order, so that two batches with the same deliveries cannot wait for each other in a circle.
_INSERT_POSTGRES = """
    INSERT INTO inbox (tenant, source, delivery_id, trigger, subject, event, state, progress,
                       attempts, next_at, received_at)
    SELECT t, s, d, k, u, e, 'new', '{}', 0, n, %s
      FROM json_to_recordset(%s::json) AS rows(t text, s text, d text, k text, u text, e json,
                                               n timestamptz)
     ORDER BY t, s, d
    ON CONFLICT DO NOTHING"""
_INSERT_SQLITE = """
    INSERT INTO inbox (tenant, source, delivery_id, trigger, subject, event, state, progress,
                       attempts, next_at, received_at)
    SELECT value ->> 't', value ->> 's', value ->> 'd', value ->> 'k', value ->> 'u', value -> 'e',
           'new', '{}', 0, value ->> 'n', ?
      FROM json_each(?)
     WHERE true
    ON CONFLICT DO NOTHING"""


class _Stored(msgspec.Struct, omit_defaults=True):
    """What of an event goes into the `event` column: its ids, absent ones left out."""

    occurred_at: datetime | None = None
    user_id: str | None = None
    connection: str | None = None
    connection_id: str | None = None
    strategy: str | None = None
    identity_user_id: str | None = None
    detail: dict[str, str] = {}


class _Row(msgspec.Struct):
    """One line of an insert."""

    t: str
    s: str
    d: str
    k: str
    u: str
    e: _Stored
    n: datetime | int  # microseconds on SQLite


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedEvent:
    """An inbox row that is ours until `lease_until`."""

    id: int
    event: Event
    progress: Mapping[str, Any]  # action name → "done", or what it failed with
    attempts: int
    received_at: datetime
    lease_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How a claimed row stands after its actions ran. `next_at` None: nothing more to do."""

    claimed: ClaimedEvent
    state: str  # "new", "done", "failed"
    progress: Mapping[str, Any]
    attempts: int
    next_at: datetime | None
    error: str | None = None


class InboxRepository:
    """The `inbox` table. Thread-safe; every method is one short transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, events: Sequence[Event], *, now: datetime, next_at: Sequence[datetime]) -> int:
        """Insert what is not known yet, in one statement; returns how many were new."""
        if not events:
            return 0
        with writing(self._engine) as connection:
            return _insert(connection, events, now, next_at)

    def add_unreadable(
        self, tenant: str, source: Source, rows: Sequence[tuple[str, bytes, str]], *, now: datetime
    ) -> int:
        """Keep (delivery id, raw, why) for a human; returns how many were new."""
        added = 0
        with writing(self._engine) as connection:
            for delivery_id, raw, why in sorted(rows):
                if not _known(connection, tenant, source, delivery_id):
                    values = {"raw": raw, "state": "unreadable", "error": why, "event": {}}
                    key = {"tenant": tenant, "source": source.value, "delivery_id": delivery_id}
                    rest = {"progress": {}, "attempts": 0, "received_at": now}
                    connection.execute(_inbox.insert(), {**values, **key, **rest})
                    added += 1
        return added

    def claim(
        self,
        *,
        now: datetime,
        lease_for: timedelta,
        limit: int,
        without: Sequence[str] = (),
        held: Collection[tuple[str, str]] = (),
    ) -> list[ClaimedEvent]:
        """Lease the longest due rows, oldest first, and whatever else is due about the same
        subjects: one look serves them all. None of the tenants in `without`, and nothing about
        the (tenant, subject)s `held`: whoever asks has them in hand.

        Returns at most ten times `limit`.
        """
        due = [*_free(now), _inbox.c.tenant.not_in(without)]
        if held:
            due.append(_not_about(held))
        with writing(self._engine) as connection:
            _take_turns(connection)
            oldest = _due(due).order_by(_inbox.c.next_at).limit(limit)
            rows = _leased(connection, oldest, now + lease_for)
            subjects = {row.subject for row in rows if row.subject is not None}
            if subjects:
                # two short lists, which an index serves, and no pairs, which take long to plan:
                # what it finds beyond them is another tenant's subject of that name, due as well
                tenants = {row.tenant for row in rows}
                same = (_inbox.c.tenant.in_(tenants), _inbox.c.subject.in_(subjects))
                # in no order: for one, PostgreSQL may look through everything that is due
                rows += _leased(connection, _due((*due, *same)).limit(9 * limit), now + lease_for)
        return sorted((_claimed(row) for row in rows), key=lambda claimed: claimed.id)

    def claim_fresh(
        self,
        *,
        now: datetime,
        lease_for: timedelta,
        limit: int,
        tenants: Sequence[str],
        held: Collection[tuple[str, str]] = (),
    ) -> list[ClaimedEvent]:
        """Lease the newest due rows of these tenants that were never tried, newest first, for
        them not to wait behind a backlog. Nothing about the (tenant, subject)s `held`."""
        due = [*_free(now), _inbox.c.tenant.in_(tenants), _inbox.c.attempts == 0]
        if held:
            due.append(_not_about(held))
        newest = _due(due).order_by(_inbox.c.next_at.desc()).limit(limit)
        with writing(self._engine) as connection:
            return [_claimed(row) for row in _leased(connection, newest, now + lease_for)]

    def settle(self, settlements: Sequence[Settlement], *, now: datetime) -> int:
        """Write down how rows stand and free them; a row whose lease is no longer ours stays.

        Returns how many were still ours.
        """
        if not settlements:
            return 0
        with writing(self._engine) as connection:
            result = connection.execute(_SETTLE, [_settled(s, now) for s in settlements])
            return result.rowcount

    def release(self, claimed: Sequence[ClaimedEvent]) -> None:
        """Give back rows that were not begun."""
        if claimed:
            with writing(self._engine) as connection:
                connection.execute(
                    _RELEASE, [{"b_id": c.id, "b_lease": c.lease_until} for c in claimed]
                )

    def due(self, *, now: datetime) -> bool:
        """Whether anything waits to be worked off."""
        query = select(_inbox.c.id).where(*_free(now)).limit(1)
        with reading(self._engine) as connection:
            return connection.execute(query).first() is not None

    def oldest_age(self, *, now: datetime) -> timedelta | None:
        """How long the oldest event not yet worked off has waited; None: nothing waits."""
        query = select(func.min(_inbox.c.received_at)).where(_inbox.c.next_at.is_not(None))
        with reading(self._engine) as connection:
            oldest: datetime | None = connection.execute(query).scalar_one()
        return None if oldest is None else now - oldest

    def counts(self) -> dict[str, int]:
        """Rows by state."""
        query = select(_inbox.c.state, func.count().label("rows")).group_by(_inbox.c.state)
        with reading(self._engine) as connection:
            return {row.state: row.rows for row in connection.execute(query)}

    def purge(self, *, before: datetime, limit: int = 5_000) -> int:
        """Forget rows received before that need nothing more, at most `limit` of them.

        A delivery repeated later than this is an event anew; that costs a pull, no more.
        Unreadable and failed rows stay until they are replayed or discarded.
        """
        old = (
            select(_inbox.c.id)
            .where(_inbox.c.received_at < before, _inbox.c.state == "done")
            .order_by(_inbox.c.received_at)
            .limit(limit)
        )
        with writing(self._engine) as connection:
            return connection.execute(delete(_inbox).where(_inbox.c.id.in_(old))).rowcount


_CLAIMED = (
    _inbox.c.id,
    _inbox.c.tenant,
    _inbox.c.source,
    _inbox.c.delivery_id,
    _inbox.c.trigger,
    _inbox.c.subject,
    _inbox.c.event,
    _inbox.c.progress,
    _inbox.c.attempts,
    _inbox.c.received_at,
    _inbox.c.lease_until,
)
_ABOUT = tuple_(_inbox.c.tenant, _inbox.c.subject)
_OURS = (_inbox.c.id == bindparam("b_id")) & (_inbox.c.lease_until == bindparam("b_lease"))
_RELEASE = update(_inbox).where(_OURS).values(lease_until=None)
_SETTLE = (
    update(_inbox)
    .where(_OURS)
    .values(
        state=bindparam("b_state"),
        progress=bindparam("b_progress"),
        attempts=bindparam("b_attempts"),
        next_at=bindparam("b_next_at"),
        error=bindparam("b_error"),
        done_at=bindparam("b_done_at"),
        lease_until=None,
    )
)


def _free(now: datetime) -> list[Any]:
    unleased = or_(_inbox.c.lease_until.is_(None), _inbox.c.lease_until <= now)
    return [_inbox.c.next_at <= now, unleased]


def _not_about(held: Collection[tuple[str, str]]) -> Any:
    return or_(_inbox.c.subject.is_(None), _ABOUT.not_in(held))


def _due(where: Sequence[Any]) -> Select[int]:
    # two workers do not wait for each other
    return select(_inbox.c.id).where(*where).with_for_update(skip_locked=True)


def _take_turns(connection: Connection) -> None:
    """Claimers of one moment would each get a part of what is due about one user, and each part
    would cost a read of him. SQLite's writers take turns anyway; on PostgreSQL nobody waits long,
    for who holds it long stands still."""
    if connection.dialect.name != "postgresql":
        return
    with suppress(OperationalError), connection.begin_nested():
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LONGEST_TURN}")
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TURN})


def _leased(connection: Connection, wanted: Select[int], lease_until: datetime) -> list[Any]:
    lease = update(_inbox).where(_inbox.c.id.in_(wanted)).values(lease_until=lease_until)
    return list(connection.execute(lease.returning(*_CLAIMED)).all())


def _settled(settlement: Settlement, now: datetime) -> dict[str, Any]:
    return {
        "b_id": settlement.claimed.id,
        "b_lease": settlement.claimed.lease_until,
        "b_state": settlement.state,
        "b_progress": dict(settlement.progress),
        "b_attempts": settlement.attempts,
        "b_next_at": settlement.next_at,
        "b_error": settlement.error,
        "b_done_at": now if settlement.state == "done" else None,
    }


def _insert(
    connection: Connection, events: Sequence[Event], now: datetime, next_at: Sequence[datetime]
) -> int:
    postgres = connection.dialect.name == "postgresql"
    rows = [
        _Row(
            event.tenant,
            event.source.value,
            event.delivery_id,
            event.trigger.value,
            event.subject,
            _stored(event),
            at if postgres else to_micros(at),
        )
        for event, at in zip(events, next_at, strict=True)
    ]
    told = msgspec.json.encode(rows).decode()
    statement = _INSERT_POSTGRES if postgres else _INSERT_SQLITE
    moment = now if postgres else to_micros(now)
    return connection.exec_driver_sql(statement, (moment, told)).rowcount


def _stored(event: Event) -> _Stored:
    return _Stored(
        event.occurred_at,
        event.user_id,
        event.connection,
        event.connection_id,
        event.strategy,
        event.identity_user_id,
        event.detail,
    )


def _known(connection: Connection, tenant: str, source: Source, delivery_id: str) -> bool:
    query = select(_inbox.c.id).where(
        _inbox.c.tenant == tenant,
        _inbox.c.source == source.value,
        _inbox.c.delivery_id == delivery_id,
    )
    return connection.execute(query).first() is not None


def _claimed(row: Any) -> ClaimedEvent:
    stored = msgspec.convert(row.event, _Stored)
    event = Event(
        tenant=row.tenant,
        trigger=Trigger(row.trigger),
        source=Source(row.source),
        delivery_id=row.delivery_id,
        occurred_at=stored.occurred_at,
        user_id=stored.user_id,
        connection=stored.connection,
        connection_id=stored.connection_id,
        strategy=stored.strategy,
        identity_user_id=stored.identity_user_id,
        detail=stored.detail,
    )
    return ClaimedEvent(
        id=row.id,
        event=event,
        progress=row.progress,
        attempts=row.attempts,
        received_at=row.received_at,
        lease_until=row.lease_until,
    )
