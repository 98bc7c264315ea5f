"""Lets a quarantined grant renew again, once an operator says that nobody else spends it (M8)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection, Engine, case, literal, update

from worker.domain.grant import GrantId, GrantState
from worker.domain.ports import AuditRecord
from worker.store.engine import writing
from worker.store.tables import GrantRow
from worker.store.types import Instant


class Audit(Protocol):
    """The audit log, written inside the caller's transaction."""

    def append(self, connection: Connection, records: Sequence[AuditRecord]) -> object: ...


class QuarantineRepository:
    """The way out of `quarantined`; the way in is a merge, or a changed endpoint."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self._engine = engine
        self._audit = audit

    def release(self, grant: GrantId, *, actor: str, now: datetime) -> bool:
        """Active again and due at once; False: it was not quarantined."""
        spends = GrantRow.renewable & GrantRow.alias_of.is_(None)
        released = (
            update(GrantRow)
            .where(GrantRow.id == grant, GrantRow.state == GrantState.QUARANTINED.value)
            .values(
                state=GrantState.ACTIVE.value,
                reason=None,
                failures=0,
                suspect_since=None,
                due_at=case((spends, literal(now, Instant())), else_=None),
            )
            .returning(GrantRow.tenant)
        )
        with writing(self._engine) as connection:
            row = connection.execute(released).one_or_none()
            if row is not None:
                record = AuditRecord(
                    at=now, actor=actor, verb="released", tenant=row.tenant, grant=grant
                )
                self._audit.append(connection, [record])
        return row is not None
