"""How things stand: the reads of the tick, of `status` and of `/metrics`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Engine,
    Select,
    and_,
    case,
    func,
    literal,
    or_,
    select,
    text,
    true,
)

from worker.domain.errors import NOT_WHAT_WE_WROTE
from worker.domain.grant import ExpiryKind, GrantState
from worker.store.engine import reading
from worker.store.reopening import PARKED
from worker.store.tables import ConnectionRow, GrantRow, HostRow, InboxRow, OutboxRow, TenantRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Grants, by what an operator asks of them."""

    grants: int
    active: int
    suspect: int
    needs_reauth: int
    quarantined: int
    unrenewable: int
    ending: int  # warned of: they end soon, and no renewal moves that
    valid: int  # active, and the access token has not ended
    overdue: int
    next_due: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLine(Counted):
    """Those of one catalogue entry."""

    provider: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLine(Counted):
    """Those of one tenant."""

    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLines:
    """All of them, twice."""

    providers: list[ProviderLine]
    tenants: list[TenantLine]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLine:
    """What waits in the inbox or the outbox."""

    waiting: int
    failed: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnrenewableLine:
    """Living grants of one entry on one connection, and why they are not renewed, counted."""

    connection: str
    provider: str
    reason: str
    grants: int
    users: int


_GONE = [GrantState.TOMBSTONED, GrantState.REVOKING, GrantState.ERASED]


class Overview:
    """Reads only; each answer is as of one moment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def events_due(self, now: datetime) -> bool:
        due = select(InboxRow.id).where(InboxRow.next_at.is_not(None), InboxRow.next_at <= now)
        free = or_(InboxRow.lease_until.is_(None), InboxRow.lease_until <= now)
        with reading(self._engine) as connection:
            return connection.execute(due.where(free).limit(1)).first() is not None

    def notices_due(self, now: datetime) -> bool:
        due = select(OutboxRow.id).where(OutboxRow.next_at.is_not(None), OutboxRow.next_at <= now)
        with reading(self._engine) as connection:
            return connection.execute(due.limit(1)).first() is not None

    def grants(self, now: datetime) -> GrantLines:
        """Counts all grants: a scan. For people, and for a scrape that is cached."""
        with reading(self._engine) as connection:
            rows = connection.execute(_counted(now)).mappings().all()
        return GrantLines(
            providers=[ProviderLine(provider=n, **told) for n, told in _summed(rows, "provider")],
            tenants=[TenantLine(tenant=n, **told) for n, told in _summed(rows, "tenant")],
        )

    def inbox(self) -> QueueLine:
        return self._queue(InboxRow)

    def outbox(self) -> QueueLine:
        return self._queue(OutboxRow)

    def stopped_connections(self) -> list[tuple[str, str, str]]:
        """Tenant, name and why, of each connection taken out of renewal."""
        query = select(ConnectionRow.tenant, ConnectionRow.name, ConnectionRow.stopped).where(
            ConnectionRow.stopped.is_not(None), ConnectionRow.deleted_at.is_(None)
        )
        with reading(self._engine) as connection:
            return [(tenant, name, why or "") for tenant, name, why in connection.execute(query)]

    def connection_problems(self) -> list[tuple[str, str, str]]:
        """Tenant, name and code of what somebody has to mend at Auth0, connection by connection."""
        query = select(ConnectionRow.tenant, ConnectionRow.name, ConnectionRow.problems).where(
            ConnectionRow.problems.is_not(None), ConnectionRow.deleted_at.is_(None)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [
            (tenant, name, code) for tenant, name, codes in rows for code in (codes or "").split()
        ]

    def blocked_hosts(self, now: datetime) -> list[tuple[str, datetime, str]]:
        query = select(HostRow.host, HostRow.blocked_until, HostRow.why).where(
            HostRow.blocked_until > now
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [(host, until, why or "") for host, until, why in rows if until]

    def stopped_streams(self) -> list[tuple[str, str, str, str]]:
        """Tenant, kind, id and status of each of Auth0's streams to us that does not run."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(TenantRow.tenant, TenantRow.streams)).all()
        return [
            (tenant, line["kind"], id_, line["status"])
            for tenant, streams in rows
            for id_, line in sorted(streams.items())
            if not line["running"]
        ]

    def budgets(self) -> list[tuple[str, str, float]]:
        """Tenant, bucket, and the requests it held when last drawn from."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(TenantRow.tenant, TenantRow.budget)).all()
        return [
            (tenant, bucket, float(state.get("level", 0)))
            for tenant, budget in rows
            for bucket, state in budget.items()
            if isinstance(state, dict)
        ]

    def grants_by_connection(self, tenant: str) -> dict[str, int]:
        """Living grants of each connection. A scan of the tenant's grants."""
        query = (
            select(GrantRow.connection, func.count())
            .where(GrantRow.tenant == tenant, GrantRow.state.not_in(_GONE))
            .group_by(GrantRow.connection)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return {name: count for name, count in rows}  # noqa: C416  # mypy knows no dict(rows)

    def unrenewable(self, tenant: str) -> list[UnrenewableLine]:
        """What cannot be renewed though it ends, by reason. A scan of the tenant's grants."""
        ends = GrantRow.expiry != ExpiryKind.NEVER.value
        return self._by_reason(tenant, and_(GrantRow.renewable.is_(False), ends))

    def unreadable(self, tenant: str) -> list[UnrenewableLine]:
        """What is not asked about any more, as it is not what we wrote, by the code. A scan."""
        idle = (GrantRow.renewable, GrantRow.due_at.is_(None))
        codes = GrantRow.last_error.in_(NOT_WHAT_WE_WROTE)
        return self._by_reason(tenant, and_(*idle, codes), told=GrantRow.last_error)

    def entries(self, tenant: str) -> list[UnrenewableLine]:
        """Living grants of each entry on each connection, whatever their state. A scan."""
        return self._by_reason(tenant, true(), told=None)

    def _by_reason(
        self, tenant: str, which: ColumnElement[bool], *, told: Any = GrantRow.reason
    ) -> list[UnrenewableLine]:
        columns = [GrantRow.connection, GrantRow.provider, *([] if told is None else [told])]
        query = (
            select(
                GrantRow.connection.label("connection"),
                GrantRow.provider.label("provider"),
                (literal("") if told is None else func.coalesce(told, "")).label("reason"),
                func.count().label("grants"),
                func.count(GrantRow.user_id.distinct()).label("users"),
            )
            .where(
                GrantRow.tenant == tenant,
                GrantRow.state.not_in(_GONE),
                which,
            )
            .group_by(*columns)
            .order_by(*columns)
        )
        with reading(self._engine) as connection:
            return [UnrenewableLine(**row) for row in connection.execute(query).mappings()]

    def refused(self, tenant: str) -> list[UnrenewableLine]:
        """Grants whose provider refuses them, parked or for good, by its word. A scan."""
        refused = or_(GrantRow.state == GrantState.NEEDS_REAUTH.value, PARKED)
        return self._by_reason(tenant, refused)

    def is_empty(self) -> bool:
        """Nothing is sealed yet, so no keyring can be missing."""
        sealed = (
            select(GrantRow.id).limit(1),
            select(ConnectionRow.name).where(ConnectionRow.secrets.is_not(None)).limit(1),
            select(TenantRow.tenant).where(TenantRow.api_token.is_not(None)).limit(1),
        )
        with reading(self._engine) as connection:
            return all(connection.execute(query).first() is None for query in sealed)

    def _queue(self, table: type[InboxRow] | type[OutboxRow]) -> QueueLine:
        arrived = InboxRow.received_at if table is InboxRow else OutboxRow.created_at
        waiting = select(func.count(), func.min(arrived)).where(table.next_at.is_not(None))
        with reading(self._engine) as connection:
            count, oldest = connection.execute(waiting).one()
            failed = 0
            if table is InboxRow:
                stuck = text("state IN ('failed', 'unreadable')")  # the partial index's words
                bad = select(func.count()).select_from(InboxRow).where(stuck)
                failed = connection.execute(bad).scalar_one()
        return QueueLine(waiting=count, failed=failed, oldest_at=oldest)


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _summed(
    rows: Sequence[Mapping[Any, Any]], by: Literal["provider", "tenant"]
) -> Iterator[tuple[str, dict[str, Any]]]:
    of: dict[str, list[Mapping[Any, Any]]] = defaultdict(list)
    for row in rows:
        of[row[by]].append(row)
    for name, mine in sorted(of.items()):
        dues = [row["next_due"] for row in mine if row["next_due"] is not None]
        counts = {key: sum(row[key] for row in mine) for key in _COUNTS}
        yield name, {**counts, "next_due": min(dues, default=None)}


_COUNTS = [one.name for one in fields(Counted) if one.name != "next_due"]


def _counted(now: datetime) -> Select[*tuple[Any, ...]]:
    state = GrantRow.state
    alive = state.in_([GrantState.ACTIVE, GrantState.SUSPECT])
    unended = (GrantRow.expiry != ExpiryKind.AT) | (GrantRow.expires_at > now)
    return (
        select(
            GrantRow.tenant.label("tenant"),
            GrantRow.provider.label("provider"),
            func.count().label("grants"),
            _count(state == GrantState.ACTIVE).label("active"),
            _count(state == GrantState.SUSPECT).label("suspect"),
            _count(state == GrantState.NEEDS_REAUTH).label("needs_reauth"),
            _count(state == GrantState.QUARANTINED).label("quarantined"),
            _count(GrantRow.renewable.is_(False)).label("unrenewable"),
            _count(alive & (GrantRow.warned_at >= GrantRow.logged_in_at)).label("ending"),
            _count(alive & unended).label("valid"),
            _count(GrantRow.due_at < now).label("overdue"),
            func.min(GrantRow.due_at).label("next_due"),
        )
        .where(state.not_in(_GONE))
        .group_by(GrantRow.tenant, GrantRow.provider)
    )
