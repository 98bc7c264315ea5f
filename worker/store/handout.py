"""Grants as readers see them. No statement here selects a refresh token (I17)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, bindparam, case, func, or_, select, tuple_, update

from worker.domain.forward import FORCED_GAP, FORCED_PER_HOUR, SOON, Forward, Moment, Push
from worker.domain.grant import ExpiryKind, GrantId, GrantKey, GrantPart, GrantState
from worker.domain.held import Ask, HeldGrant, Withheld
from worker.domain.ports import AuditRecord
from worker.store import history, outbox
from worker.store.engine import BINARY, reading, writing
from worker.store.learning import LearningRepository
from worker.store.tables import AuditRow, CandidateRow, ConnectionRow, GrantRow

FORCED = "renewal_forced"  # the audit verb that is counted


class Audit(Protocol):
    """The audit log, written inside the caller's transaction."""

    def append(self, connection: Connection, records: Sequence[AuditRecord]) -> object: ...


_COLUMNS = select(
    GrantRow.id,
    GrantRow.tenant,
    GrantRow.connection,
    GrantRow.identity_user_id,
    GrantRow.part,
    GrantRow.user_id,
    GrantRow.strategy,
    GrantRow.provider,
    GrantRow.state,
    GrantRow.reason,
    GrantRow.renewable,
    GrantRow.alias_of,
    GrantRow.generation,
    GrantRow.access_token,
    GrantRow.access_key,
    GrantRow.token_type,
    GrantRow.scope,
    GrantRow.issued_at,
    GrantRow.expiry,
    GrantRow.expires_at,
    GrantRow.refresh_expires_at,
    GrantRow.renewed_at,
    GrantRow.due_at,
    GrantRow.not_before,
    GrantRow.failures,
    GrantRow.last_error,
    GrantRow.suspect_since,
    GrantRow.withheld,
    GrantRow.api_base,
    case((GrantRow.warned_at >= GrantRow.logged_in_at, GrantRow.warned_at)).label("warned_at"),
).execution_options(**BINARY)
_BY_ID = _COLUMNS.where(GrantRow.id == bindparam("grant"))
_OF_USER = _COLUMNS.where(
    GrantRow.tenant == bindparam("tenant"), GrantRow.user_id == bindparam("user")
).order_by(GrantRow.connection, GrantRow.identity_user_id, GrantRow.part)
_FIND = _COLUMNS.where(
    tuple_(GrantRow.tenant, GrantRow.user_id, GrantRow.connection).in_(
        bindparam("asked", expanding=True)
    ),
    GrantRow.part.in_([GrantPart.USER.value, GrantPart.BOT.value]),
).order_by(GrantRow.identity_user_id)
_BEARS_THE_NAME = (  # another may have borne it before, whose administrator's grant is kept
    select(ConnectionRow.connection_id)
    .where(
        ConnectionRow.tenant == bindparam("tenant"), ConnectionRow.name == bindparam("connection")
    )
    .scalar_subquery()
)
_ADMIN = _COLUMNS.where(
    GrantRow.tenant == bindparam("tenant"),
    GrantRow.connection == bindparam("connection"),
    GrantRow.part == GrantPart.ADMIN.value,
    GrantRow.identity_user_id == func.coalesce(_BEARS_THE_NAME, GrantRow.identity_user_id),
)


class HandoutRepository:
    """Reads by primary key or by the user's index, without a transaction around them."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self._engine = engine
        self._audit = audit

    def find(self, ask: Ask) -> Sequence[HeldGrant]:
        """What answers to the question; several rows where one user has several accounts."""
        return self.find_many([ask])[0]

    def find_many(self, asks: Sequence[Ask]) -> Sequence[Sequence[HeldGrant]]:
        """One statement for all users' grants: measured, a third of the CPU of one for each."""
        found: dict[tuple[str, str | None, str], list[HeldGrant]] = {}
        users = {(ask.tenant, ask.user_id, ask.connection) for ask in asks if ask.user_id}
        with reading(self._engine) as connection:
            rows: list[Any] = []
            if users:
                rows += connection.execute(_FIND, {"asked": _padded(users)})
            for ask in asks:
                if ask.user_id is None:
                    asked = {"tenant": ask.tenant, "connection": ask.connection}
                    rows += connection.execute(_ADMIN, asked)
        for held in {row.id: _held(row) for row in rows}.values():
            place = (held.key.tenant, _owner(held), held.key.connection)
            found.setdefault(place, []).append(held)
        return [_answering(ask, found) for ask in asks]

    def by_id(self, grant: GrantId) -> HeldGrant | None:
        return next(iter(self._rows(_BY_ID, {"grant": grant})), None)

    def of_user(self, tenant: str, user_id: str) -> Sequence[HeldGrant]:
        return self._rows(_OF_USER, {"tenant": tenant, "user": user_id})

    def bring_forward(self, grant: GrantId, now: datetime, *, actor: str) -> Forward:
        """Make a grant due now, at most five times an hour and never against the schedule's word.

        A grant that backs off after failures keeps its time: the provider may have asked for it.
        """
        with writing(self._engine) as connection:
            retry_at = self._forced_enough(connection, grant, now)
            if retry_at is None and connection.execute(_made_due(grant, now)).rowcount:
                self._audit.append(connection, [_forced_record(connection, grant, now, actor)])
                return Forward(Push.DUE)
            return _why_not(connection, grant, now, retry_at)

    def refused(self, key: GrantKey, grant: GrantId, *, age: float) -> None:
        LearningRepository(self._engine, tell=outbox.add).refused(key, grant, age=age)

    def why_stopped(self, tenant: str, connection: str) -> str | None:
        asked = select(ConnectionRow.stopped).where(
            ConnectionRow.tenant == tenant, ConnectionRow.name == connection
        )
        with reading(self._engine) as reader:
            return reader.execute(asked).scalar_one_or_none()

    def problems(self, tenant: str, connection: str) -> Sequence[str]:
        asked = select(ConnectionRow.problems).where(
            ConnectionRow.tenant == tenant, ConnectionRow.name == connection
        )
        with reading(self._engine) as reader:
            return (reader.execute(asked).scalar_one_or_none() or "").split()

    def timeline(self, grant: GrantId, limit: int) -> Sequence[Moment]:
        """Newest first."""
        return history.timeline(self._engine, grant, limit)

    def candidates(self, grant: GrantId) -> Mapping[str, int]:
        """Unspent refresh tokens beside the current one, counted by why they are kept."""
        asked = select(CandidateRow.why).where(
            CandidateRow.grant_id == grant, CandidateRow.spent_at.is_(None)
        )
        with reading(self._engine) as reader:
            return dict(Counter(reader.execute(asked).scalars()))

    def record(self, records: Sequence[AuditRecord]) -> None:
        with writing(self._engine) as connection:
            self._audit.append(connection, records)

    def _rows(self, statement: Any, asked: Mapping[str, object]) -> list[HeldGrant]:
        with reading(self._engine) as connection:
            return [_held(row) for row in connection.execute(statement, asked)]

    def _forced_enough(
        self, connection: Connection, grant: GrantId, now: datetime
    ) -> datetime | None:
        """When the hour's first forced renewal is an hour old; None: there is room for one."""
        forced = select(func.count(), func.min(AuditRow.at)).where(
            AuditRow.grant_id == grant,
            AuditRow.at > now - timedelta(hours=1),
            AuditRow.verb == FORCED,
        )
        count, first = connection.execute(forced).one()
        return first + timedelta(hours=1) if count >= FORCED_PER_HOUR else None


def _padded(users: Set[tuple[str, str | None, str]]) -> list[tuple[str, str | None, str]]:
    """To a power of two, by repeating one: few lengths are few statements to prepare."""
    asked = list(users)
    length = 1 << (len(asked) - 1).bit_length()
    return asked + asked[:1] * (length - len(asked))


def _owner(held: HeldGrant) -> str | None:
    """Whose it is in a question: an admin grant is nobody's, whatever its row says."""
    return None if held.key.part is GrantPart.ADMIN else held.user_id


def _answering(
    ask: Ask, found: Mapping[tuple[str, str | None, str], list[HeldGrant]]
) -> Sequence[HeldGrant]:
    grants = found.get((ask.tenant, ask.user_id, ask.connection), [])
    if ask.user_id is not None:
        grants = [held for held in grants if held.key.part is ask.part]
    if ask.identity is None:
        return grants
    return [held for held in grants if held.key.identity_user_id == ask.identity]


def _made_due(grant: GrantId, now: datetime) -> Any:
    """One statement decides: of two at once the second finds the grant already due."""
    return (
        update(GrantRow)
        .where(
            GrantRow.id == grant,
            GrantRow.state == GrantState.ACTIVE.value,
            GrantRow.renewable,
            GrantRow.alias_of.is_(None),
            GrantRow.attempt.is_(None),
            GrantRow.failures == 0,
            or_(GrantRow.due_at.is_(None), GrantRow.due_at > now),
            or_(GrantRow.not_before.is_(None), GrantRow.not_before <= now),
            or_(GrantRow.renewed_at.is_(None), GrantRow.renewed_at <= now - FORCED_GAP),
        )
        .values(due_at=now)
    )


def _why_not(
    connection: Connection, grant: GrantId, now: datetime, retry_at: datetime | None
) -> Forward:
    row = connection.execute(
        select(
            GrantRow.state,
            GrantRow.renewable,
            GrantRow.alias_of,
            GrantRow.due_at,
            GrantRow.attempt,
            GrantRow.not_before,
            GrantRow.renewed_at,
            GrantRow.failures,
        ).where(GrantRow.id == grant)
    ).one_or_none()
    if row is None or row.state != GrantState.ACTIVE or not row.renewable or row.alias_of:
        return Forward(Push.IMPOSSIBLE)
    if row.attempt is not None or (row.due_at is not None and row.due_at <= now + SOON):
        return Forward(Push.DUE)
    rested = row.renewed_at and row.renewed_at + FORCED_GAP
    times = [when for when in (retry_at, row.not_before, rested) if when and when > now]
    if row.failures and row.due_at is not None:
        times = [row.due_at]
    return Forward(Push.TOO_SOON, max(times, default=now))


def _forced_record(
    connection: Connection, grant: GrantId, now: datetime, actor: str
) -> AuditRecord:
    tenant = connection.execute(select(GrantRow.tenant).where(GrantRow.id == grant)).scalar_one()
    return AuditRecord(at=now, actor=actor, verb=FORCED, tenant=tenant, grant=grant)


def _held(row: Row[Any]) -> HeldGrant:
    key = GrantKey(
        tenant=row.tenant,
        connection=row.connection,
        identity_user_id=row.identity_user_id,
        part=GrantPart(row.part),
    )
    return HeldGrant(
        id=GrantId(row.id),
        key=key,
        user_id=row.user_id,
        strategy=row.strategy,
        provider=row.provider,
        state=GrantState(row.state),
        reason=row.reason,
        renewable=row.renewable,
        alias_of=_grant_id(row.alias_of),
        generation=row.generation,
        access_token=row.access_token,
        access_key=row.access_key,
        token_type=row.token_type,
        scope=row.scope,
        issued_at=row.issued_at,
        expiry=ExpiryKind(row.expiry),
        expires_at=row.expires_at,
        refresh_expires_at=row.refresh_expires_at,
        renewed_at=row.renewed_at,
        due_at=row.due_at,
        not_before=row.not_before,
        failures=row.failures,
        last_error=row.last_error,
        suspect_since=row.suspect_since,
        withheld=Withheld(row.withheld) if row.withheld else None,
        api_base=row.api_base,
        warned_at=row.warned_at,
    )


def _grant_id(value: UUID | None) -> GrantId | None:
    return None if value is None else GrantId(value)
