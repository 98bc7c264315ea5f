"""What the audit tells of one grant, its renewals included, which are written in groups.

A group of renewals is one entry without a grant's id: an entry of its own for each would cost
more than it tells. Finding a grant in them is an operator's rare question, so it costs its asker:
the instants of rotated renewals are known exactly, the others are looked for in so many groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, String, cast, select

from worker.domain.forward import Moment
from worker.domain.grant import GrantId
from worker.store.engine import reading
from worker.store.tables import AuditRow, GrantRow, SeenRefreshTokenRow

RENEWED = "renewed"
LOOK_BACK = timedelta(days=7)  # from the latest renewal
LOOK_THROUGH = 2_000  # groups of the tenant
_ENTRY = (AuditRow.at, AuditRow.actor, AuditRow.verb, AuditRow.detail)
_NEWEST_FIRST = (AuditRow.at.desc(), AuditRow.chain, AuditRow.seq.desc())


def timeline(engine: Engine, grant: GrantId, limit: int) -> Sequence[Moment]:
    """Newest first. Renewals in groups are told as far back as `LOOK_BACK`."""
    with reading(engine) as connection:
        alone = connection.execute(
            select(*_ENTRY).where(AuditRow.grant_id == grant).order_by(*_NEWEST_FIRST).limit(limit)
        ).all()
        rows = [*alone, *_in_groups(connection, grant, limit)]
    rows.sort(key=lambda row: row.at, reverse=True)  # stable: equal instants stay in their order
    return [_moment(row, grant) for row in rows[:limit]]


def _in_groups(connection: Connection, grant: GrantId, limit: int) -> Sequence[Any]:
    asked = select(GrantRow.tenant, GrantRow.renewed_at).where(GrantRow.id == grant)
    row = connection.execute(asked).one_or_none()
    if row is None or row.renewed_at is None:
        return []
    seen = (
        select(SeenRefreshTokenRow.seen_at)
        .where(SeenRefreshTokenRow.grant_id == grant)
        .order_by(SeenRefreshTokenRow.seen_at.desc())
        .limit(limit)
    )
    rotated = connection.execute(seen).scalars().all()
    group = (AuditRow.grant_id.is_(None), AuditRow.tenant == row.tenant, AuditRow.verb == RENEWED)
    lately = (
        select(AuditRow.chain, AuditRow.seq)
        .where(*group, AuditRow.at <= row.renewed_at, AuditRow.at > row.renewed_at - LOOK_BACK)
        .order_by(AuditRow.at.desc())
        .limit(LOOK_THROUGH)
        .subquery()
    )
    among = (AuditRow.chain == lately.c.chain) & (AuditRow.seq == lately.c.seq)
    named = cast(AuditRow.detail, String).contains(str(grant))
    exact = select(*_ENTRY, AuditRow.chain, AuditRow.seq).where(
        *group, AuditRow.at.in_([*rotated, row.renewed_at]), named
    )
    looked = select(*_ENTRY, AuditRow.chain, AuditRow.seq).join(lately, among).where(named)
    found = {
        (one.chain, one.seq): one for query in (exact, looked) for one in connection.execute(query)
    }
    return sorted(found.values(), key=lambda one: one.at, reverse=True)[:limit]


def _moment(row: Any, grant: GrantId) -> Moment:
    detail = row.detail
    if row.verb == RENEWED:  # of a group, only what concerns this grant
        ours = next((one for one in detail.get("grants", ()) if one[0] == str(grant)), None)
        detail = {"generation": ours[1], "fence": ours[2]} if ours else {}
    return Moment(at=row.at, actor=row.actor, verb=row.verb, detail=detail)
