"""Grants whose end no renewal can move: finding those near it, and saying so once (`warned_at`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, and_, case, func, literal, or_, select, update

from worker.domain.event import Trigger
from worker.domain.grant import ExpiryKind, GrantId, GrantKey, GrantPart, GrantState
from worker.domain.ports import AuditRecord, Notice
from worker.store.engine import reading, writing
from worker.store.handout import Audit
from worker.store.tables import GrantRow
from worker.store.types import Instant

Tell = Callable[[Connection, Sequence[Notice], datetime], object]

_OPEN = GrantRow.state.in_([GrantState.ACTIVE.value, GrantState.SUSPECT.value])
# a login begins a new episode, because it moves the end
_UNWARNED = or_(GrantRow.warned_at.is_(None), GrantRow.warned_at < GrantRow.logged_in_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Grants of one entry on one connection, which share what is declared about their end."""

    tenant: str
    connection: str
    provider: str
    renewable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """One grant, and what its end is reckoned from."""

    grant: GrantId
    key: GrantKey
    user_id: str | None
    family: int
    logged_in_at: datetime
    issued_at: datetime
    expires_at: datetime | None
    refresh_expires_at: datetime | None


class LastDays:
    """Raises everywhere: TransientError, the store is away."""

    def __init__(self, engine: Engine, audit: Audit, tell: Tell, *, actor: str) -> None:
        self._engine = engine
        self._audit = audit
        self._tell = tell
        self._actor = actor

    def kinds(self) -> Sequence[Kind]:
        """What there is to look through. A scan of all grants: ask a few times a day."""
        columns = (GrantRow.tenant, GrantRow.connection, GrantRow.provider, GrantRow.renewable)
        with reading(self._engine) as connection:
            rows = connection.execute(select(*columns).where(_OPEN).group_by(*columns)).all()
        return [Kind(**row._mapping) for row in rows]

    def near(
        self,
        kind: Kind,
        *,
        by: datetime,
        life: timedelta | None,
        access: bool,
        after: GrantId | None,
        limit: int,
    ) -> Sequence[Ending]:
        """Not warned of yet, and ending before `by`; by id, from `after` on.

        Args:
            life: of the refresh token from the login on, where the answer did not tell its end.
            access: an access token that ends counts too.
        """
        ends = [_access_ends_before(by)] if access else []
        if kind.renewable:
            ends.append(_ends_before(by, life))
        where = [
            GrantRow.tenant == kind.tenant,
            GrantRow.connection == kind.connection,
            GrantRow.provider == kind.provider,
            GrantRow.renewable.is_(kind.renewable),
            _OPEN,
            _UNWARNED,
            or_(*ends),
        ]
        if after is not None:
            where.append(GrantRow.id > after)
        asked = select(*_COLUMNS).where(*where).order_by(GrantRow.id).limit(limit)
        with reading(self._engine) as connection:
            return [_ending(row) for row in connection.execute(asked)]

    def warn(self, ends: Sequence[tuple[Ending, datetime]], now: datetime) -> int:
        """Say so once: mark, audit and notice in one transaction. How many were news."""
        told = [(ending, end) for ending, end in ends]
        with writing(self._engine) as connection:
            told = [one for one in told if self._mark(connection, *one, now)]
            self._audit.append(connection, [self._record(*one, now) for one in told])
            self._tell(connection, [_notice(*one) for one in told], now)
        return len(told)

    def _mark(self, connection: Connection, ending: Ending, end: datetime, now: datetime) -> bool:
        values: dict[Any, Any] = {GrantRow.warned_at: now}
        if end != ending.expires_at:  # an access token's end may yet be moved
            told = func.coalesce(GrantRow.refresh_expires_at, literal(end, Instant()))
            kept = case((GrantRow.renewable, told), else_=GrantRow.refresh_expires_at)
            values[GrantRow.refresh_expires_at] = kept
        this = update(GrantRow).where(GrantRow.id == ending.grant, _OPEN, _UNWARNED)
        return connection.execute(this.values(values)).rowcount > 0

    def _record(self, ending: Ending, end: datetime, now: datetime) -> AuditRecord:
        return AuditRecord(
            at=now,
            actor=self._actor,
            verb="warned",
            tenant=ending.key.tenant,
            grant=ending.grant,
            detail={"ends_at": end.isoformat()},
        )


_COLUMNS = (
    GrantRow.id,
    GrantRow.tenant,
    GrantRow.connection,
    GrantRow.identity_user_id,
    GrantRow.part,
    GrantRow.user_id,
    GrantRow.family,
    GrantRow.logged_in_at,
    GrantRow.issued_at,
    GrantRow.expires_at,
    GrantRow.refresh_expires_at,
)


def _ends_before(by: datetime, life: timedelta | None) -> Any:
    told = GrantRow.refresh_expires_at <= by
    if life is None:
        return told
    return or_(
        told, and_(GrantRow.refresh_expires_at.is_(None), GrantRow.logged_in_at <= by - life)
    )


def _access_ends_before(by: datetime) -> Any:
    return and_(GrantRow.expiry == ExpiryKind.AT.value, GrantRow.expires_at <= by)


def _ending(row: Any) -> Ending:
    key = GrantKey(
        tenant=row.tenant,
        connection=row.connection,
        identity_user_id=row.identity_user_id,
        part=GrantPart(row.part),
    )
    grant: UUID = row.id
    return Ending(
        grant=GrantId(grant),
        key=key,
        user_id=row.user_id,
        family=row.family,
        logged_in_at=row.logged_in_at,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        refresh_expires_at=row.refresh_expires_at,
    )


def _notice(ending: Ending, end: datetime) -> Notice:
    """One per login, however often it is looked at."""
    return Notice(
        tenant=ending.key.tenant,
        kind=Trigger.GRANT_ENDS_SOON,
        episode=f"{Trigger.GRANT_ENDS_SOON}:{ending.grant}:{ending.logged_in_at.isoformat()}",
        grant=ending.grant,
        key=ending.key,
        user_id=ending.user_id,
        reason=f"ends at {end.isoformat(timespec='seconds')}",
    )
