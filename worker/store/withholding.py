"""Grants that are kept and renewed, but handed to nobody until it is known whose they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, and_, func, literal, or_, select, update

from worker.domain.grant import GrantId
from worker.domain.held import GONE, Withheld
from worker.domain.ports import AuditRecord, Notice
from worker.store.engine import reading, writing
from worker.store.handout import Audit
from worker.store.tables import GrantRow, PullRow

AddNotices = Callable[[Connection, Sequence[Notice], datetime], None]

_LIVING = GrantRow.state.not_in([state.value for state in GONE])


@dataclass(frozen=True, slots=True, kw_only=True)
class WithheldUser:
    """A user whose grants are withheld."""

    tenant: str
    user_id: str
    why: str
    grants: int
    since: datetime


class WithholdingRepository:
    """Merging hands out again: whoever is read anew says whether he is blocked."""

    def __init__(self, engine: Engine, audit: Audit, add_notices: AddNotices) -> None:
        self._engine = engine
        self._audit = audit
        self._add_notices = add_notices

    def withhold(
        self, tenant: str, user_id: str, why: Withheld, *, actor: str, now: datetime
    ) -> Sequence[GrantId]:
        """Hand out nothing of the user from the commit on; told once, however often it is said.

        Returns: the grants that were handed out until now.
        """
        with writing(self._engine) as connection:
            rows = connection.execute(
                update(GrantRow)
                .where(
                    GrantRow.tenant == tenant,
                    GrantRow.user_id == user_id,
                    GrantRow.withheld.is_distinct_from(why.value),
                    _LIVING,
                )
                .values(withheld=why.value, withheld_at=now)
                .returning(GrantRow.id)
            ).all()
            grants = [GrantId(row.id) for row in rows]
            if grants:
                records = [
                    AuditRecord(
                        at=now,
                        actor=actor,
                        verb="withheld",
                        tenant=tenant,
                        grant=grant,
                        detail={"why": why.value},
                    )
                    for grant in grants
                ]
                self._audit.append(connection, records)
                self._add_notices(connection, [_notice(tenant, user_id, why, now)], now)
        return grants

    def since(self, tenant: str, user_id: str, why: Withheld) -> datetime | None:
        """Since when all of the user's grants are withheld for that; None: he has none."""
        asked = select(func.max(GrantRow.withheld_at)).where(
            GrantRow.tenant == tenant,
            GrantRow.user_id == user_id,
            GrantRow.withheld == why.value,
            _LIVING,
        )
        with reading(self._engine) as connection:
            return connection.execute(asked).scalar_one()

    def unseen(
        self, tenant: str, why: Withheld, *, since: datetime, looked: datetime, limit: int
    ) -> Sequence[str]:
        """Users withheld no later than `since` and not read after `looked`; longest first."""
        subject = literal("user:") + GrantRow.user_id
        unread = or_(PullRow.pulled_at.is_(None), PullRow.pulled_at < looked)
        asked = (
            select(GrantRow.user_id)
            .outerjoin(PullRow, and_(PullRow.tenant == tenant, PullRow.subject == subject))
            .where(
                GrantRow.tenant == tenant,
                GrantRow.withheld_at <= since,
                GrantRow.withheld == why.value,
                _LIVING,
                unread,
            )
            .group_by(GrantRow.user_id)
            .order_by(func.min(GrantRow.withheld_at), GrantRow.user_id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [user for user in connection.execute(asked).scalars() if user]

    def users(self, tenant: str, why: Withheld) -> Sequence[WithheldUser]:
        """Longest withheld first."""
        since = func.min(GrantRow.withheld_at).label("since")
        asked = (
            select(GrantRow.user_id, func.count().label("grants"), since)
            .where(GrantRow.tenant == tenant, GrantRow.withheld == why.value, _LIVING)
            .group_by(GrantRow.user_id)
            .order_by(since, GrantRow.user_id)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(asked).all()
        return [
            WithheldUser(
                tenant=tenant,
                user_id=row.user_id,
                why=why.value,
                grants=row.grants,
                since=row.since,
            )
            for row in rows
        ]


def _notice(tenant: str, user_id: str, why: Withheld, now: datetime) -> Notice:
    return Notice(
        tenant=tenant,
        kind=why.value,
        episode=f"{why.value}:{user_id}:{now.isoformat()}",
        user_id=user_id,
        reason=why.value,
    )
