"""What an operator does about a connection: each act is one transaction with its audit in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update

from worker.domain.held import GONE
from worker.domain.ports import AuditRecord
from worker.store.engine import reading, writing
from worker.store.handout import Audit
from worker.store.reopening import bring_forward
from worker.store.tables import ConnectionRow, GrantRow


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLine:
    """What stands in a connection's way."""

    tenant: str
    name: str
    strategy: str
    stopped: str | None
    stopped_at: datetime | None
    approved_host: str | None
    verdicts_held: bool
    problems: tuple[str, ...]
    grants: int
    users: int


class ConnectionCare:
    """Stops, verdicts held back, findings, pinned hosts."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self._engine = engine
        self._audit = audit

    def lines(self, tenant: str, *, now: datetime) -> Sequence[ConnectionLine]:
        """Every connection that is not deleted, by name. A scan of the tenant's grants."""
        asked = (
            select(ConnectionRow.__table__)
            .where(ConnectionRow.tenant == tenant, ConnectionRow.deleted_at.is_(None))
            .order_by(ConnectionRow.name)
        )
        with reading(self._engine) as connection:
            counts = _counts(connection, tenant)
            return [_line(row, counts, now) for row in connection.execute(asked)]

    def reopen(self, tenant: str, name: str, *, actor: str, now: datetime) -> int:
        """Renew again, judge refusals again, and ask again for what was parked until an admin
        acts; returns how many grants fall due by it."""
        with writing(self._engine) as connection:
            row = _locked(connection, tenant, name)
            detail = {"stopped": row.stopped, "verdicts_held": row.brake_until is not None}
            values = {"stopped": None, "stopped_at": None, "brake_until": None}
            self._write(connection, tenant, name, values)
            due = bring_forward(connection, tenant, name, now)
            told = AuditRecord(
                at=now, actor=actor, verb="connection_reopened", tenant=tenant, detail=detail
            )
            self._note(connection, name, told)
        return due

    def approve_host(self, tenant: str, name: str, host: str, *, actor: str, now: datetime) -> int:
        """Send this connection's tokens to `host` from now on, and open it again (I13)."""
        with writing(self._engine) as connection:
            row = _locked(connection, tenant, name)
            values = {"approved_host": host, "stopped": None, "stopped_at": None}
            self._write(connection, tenant, name, values)
            due = bring_forward(connection, tenant, name, now) if row.stopped else 0
            detail = {"host": host, "before": row.approved_host}
            told = AuditRecord(
                at=now, actor=actor, verb="host_approved", tenant=tenant, detail=detail
            )
            self._note(connection, name, told)
        return due

    def clear(self, tenant: str, name: str, *, actor: str, now: datetime) -> Sequence[str]:
        """Forget what was found wrong; what still is shows at the next read. Returns the codes."""
        with writing(self._engine) as connection:
            codes = (_locked(connection, tenant, name).problems or "").split()
            if codes:
                self._write(connection, tenant, name, {"problems": None})
                detail = {"problems": codes}
                told = AuditRecord(
                    at=now, actor=actor, verb="problems_cleared", tenant=tenant, detail=detail
                )
                self._note(connection, name, told)
        return codes

    def _write(self, connection: Connection, tenant: str, name: str, values: Any) -> None:
        connection.execute(update(ConnectionRow).where(*_named(tenant, name)).values(**values))

    def _note(self, connection: Connection, name: str, record: AuditRecord) -> None:
        told = {"connection": name, **(record.detail or {})}
        self._audit.append(connection, [replace(record, detail=told)])


def _named(tenant: str, name: str) -> tuple[Any, ...]:
    return ConnectionRow.tenant == tenant, ConnectionRow.name == name


def _locked(connection: Connection, tenant: str, name: str) -> Any:
    asked = select(ConnectionRow.__table__).where(*_named(tenant, name)).with_for_update()
    return connection.execute(asked).one()


def _counts(connection: Connection, tenant: str) -> dict[str, tuple[int, int]]:
    """Connection name to (grants, users), of those that live."""
    asked = (
        select(GrantRow.connection, func.count(), func.count(GrantRow.user_id.distinct()))
        .where(GrantRow.tenant == tenant, GrantRow.state.not_in([state.value for state in GONE]))
        .group_by(GrantRow.connection)
    )
    return {name: (grants, users) for name, grants, users in connection.execute(asked)}


def _line(row: Any, counts: dict[str, tuple[int, int]], now: datetime) -> ConnectionLine:
    grants, users = counts.get(row.name, (0, 0))
    return ConnectionLine(
        tenant=row.tenant,
        name=row.name,
        strategy=row.strategy,
        stopped=row.stopped,
        stopped_at=row.stopped_at,
        approved_host=row.approved_host,
        verdicts_held=row.brake_until is not None and row.brake_until > now,
        problems=tuple((row.problems or "").split()),
        grants=grants,
        users=users,
    )
