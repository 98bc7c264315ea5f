"""What becomes of those who follow a grant that ends (C18).

One of them inherits the refresh token, becomes its holder and renews it; the others follow that
one. Where nothing is handed over they have nothing to renew with, and a login is asked for, once.

Locks are taken of followers first and of whom they follow last, as a merge takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, case, delete, insert, select, update

from worker.domain.burial import COMPROMISED, Bequest, Heir
from worker.domain.event import Trigger
from worker.domain.grant import Fingerprint, GrantId, GrantState
from worker.domain.held import GONE
from worker.domain.merge import Why
from worker.domain.ports import AuditRecord, Notice
from worker.store.filling import NO_REFRESH_TOKEN, key_of
from worker.store.seen import holds, remembered
from worker.store.sharing import holder_of
from worker.store.tables import CandidateRow, GrantRow, SeenRefreshTokenRow

_GONE = [state.value for state in GONE]
_KEY = (GrantRow.tenant, GrantRow.connection, GrantRow.identity_user_id, GrantRow.part)
_FOLLOWER = (
    GrantRow.id,
    *_KEY,
    GrantRow.user_id,
    GrantRow.state,
    GrantRow.family,
    GrantRow.generation,
    GrantRow.refresh_key,
    GrantRow.rotated_before,
)


def followers(db: Connection, grant: GrantId) -> list[Any]:
    """Those who live and are led to this one, also through others that have ended."""
    found: list[Any] = []
    passed, led_to = {grant}, [grant]
    while led_to:
        asked = select(*_FOLLOWER).where(GrantRow.alias_of.in_(led_to)).order_by(GrantRow.id)
        rows = [row for row in db.execute(asked).all() if row.id not in passed]
        passed |= {row.id for row in rows}
        found += [row for row in rows if row.state not in _GONE]
        led_to = [row.id for row in rows if row.state in _GONE]
    return found


def heir_of(db: Connection, ending: Any, pairs: Sequence[Any]) -> Heir | None:
    """Who gets its refresh token. What has leaked is handed over to nobody."""
    if ending.reason == COMPROMISED or ending.alias_of is not None:
        return None
    if not any(pair.latest and not pair.shared for pair in pairs):
        return None  # nothing, or another's, who may have spent it
    fit = [row for row in followers(db, ending.id) if row.refresh_key is not None]
    if not fit:
        return None

    def unfit(row: Any) -> tuple[bool, bool]:
        return row.state != GrantState.ACTIVE, row.connection != ending.connection

    first = min(fit, key=unfit)
    return Heir(
        id=GrantId(first.id),
        tenant=first.tenant,
        generation=first.generation,
        refresh_key=first.refresh_key,
    )


def lock(db: Connection, ending: GrantId) -> list[Any] | None:
    """The followers and then the grant itself; None: another follower came in between."""
    ids = [row.id for row in followers(db, ending)]
    if ids:
        locked = select(GrantRow.id).where(GrantRow.id.in_(ids)).order_by(*_KEY)
        db.execute(locked.with_for_update())
    db.execute(select(GrantRow.id).where(GrantRow.id == ending).with_for_update())
    now = followers(db, ending)
    return now if {row.id for row in now} <= set(ids) else None


def quarantine(db: Connection, meant: Any, now: datetime) -> list[AuditRecord]:
    """Somebody else spends the token of one of these (M8): so he does under its followers, which
    nobody would know once that one is tombstoned."""
    held = select(GrantRow.id).where(meant, GrantRow.state == GrantState.QUARANTINED.value)
    if not (holders := db.execute(held).scalars().all()):
        return []
    rows = db.execute(
        update(GrantRow)
        .where(GrantRow.alias_of.in_(holders), GrantRow.state == GrantState.ACTIVE.value)
        .values(state=GrantState.QUARANTINED.value, reason=Why.SHARED_SPENDER.value, due_at=None)
        .returning(GrantRow.id, GrantRow.tenant)
    ).all()
    return [_record(row, "quarantined", {"why": Why.SHARED_SPENDER.value}, now) for row in rows]


def hand_over(
    db: Connection, ending: Any, those: Sequence[Any], bequest: Bequest, now: datetime
) -> list[AuditRecord]:
    """`ending`: the row as it was before its tokens were destroyed."""
    heir = next(row for row in those if row.id == bequest.heir.id)
    holder = holder_of(db, bequest.rt_fp, but=GrantId(heir.id))
    if holder is not None:  # by a login, while it was only kept here
        _follow(db, [row.id for row in those], holder)
        _held_by(db, ending.id, holder)
        return []
    _follow(db, [row.id for row in those if row.id != heir.id], heir.id)
    active = heir.state == GrantState.ACTIVE.value
    db.execute(
        update(GrantRow)
        .where(GrantRow.id == heir.id)
        .values(
            alias_of=None,
            reason=case((GrantRow.reason == "alias", None), else_=GrantRow.reason),
            renewable=True,
            refresh_token=bequest.refresh_token,
            rt_fp=bequest.rt_fp,
            rotated_before=heir.rotated_before or ending.rotated_before,
            refresh_expires_at=ending.refresh_expires_at,
            logged_in_at=ending.logged_in_at,  # absolute ends count from the login it came of
            first_claimed_at=ending.first_claimed_at,
            retaken_fp=ending.retaken_fp,
            unproven_until=ending.unproven_until,
            due_at=now if active else None,
            failures=0,
            last_error=None,
            suspect_since=None,
        )
    )
    mine = CandidateRow.grant_id == heir.id
    db.execute(delete(CandidateRow).where(mine, CandidateRow.rt_fp == bequest.rt_fp))
    superseded = update(CandidateRow).where(mine, CandidateRow.held_by == ending.id)
    db.execute(superseded.values(spent_at=now, held_by=None))
    _held_by(db, ending.id, heir.id)
    if not holds(db, GrantId(heir.id), bequest.rt_fp):
        row = remembered(GrantId(heir.id), Fingerprint(bequest.rt_fp), now)
        db.execute(insert(SeenRefreshTokenRow).values(**row))
    return [_record(heir, "refresh_token_inherited", {"from": str(ending.id)}, now)]


def leave(
    db: Connection, ending: Any, those: Sequence[Any], now: datetime
) -> tuple[list[AuditRecord], list[Notice]]:
    """Nothing is handed over: whoever follows is led on to a holder that is left, or ends here."""
    holder = _lives(db, ending.alias_of)
    _held_by(db, ending.id, holder)
    if holder is not None or not those:
        _follow(db, [row.id for row in those], holder)
        return [], []
    db.execute(
        update(GrantRow)
        .where(GrantRow.id.in_([row.id for row in those]))
        .values(
            alias_of=None,
            renewable=False,
            reason=case((GrantRow.reason == "alias", NO_REFRESH_TOKEN), else_=GrantRow.reason),
        )
    )
    told = [row for row in those if row.state == GrantState.ACTIVE.value]
    records = [_record(row, "refresh_token_lost", {"with": str(ending.id)}, now) for row in those]
    return records, [_needs_login(row, GrantId(ending.id)) for row in told]


def _lives(db: Connection, holder: UUID | None) -> UUID | None:
    """Not yet erased: one that is being revoked takes care of its followers itself."""
    asked = select(GrantRow.id).where(
        GrantRow.id == holder, GrantRow.state != GrantState.ERASED.value
    )
    return None if holder is None else db.execute(asked).scalar_one_or_none()


def _follow(db: Connection, those: Sequence[UUID], holder: UUID | None) -> None:
    if those:
        db.execute(update(GrantRow).where(GrantRow.id.in_(those)).values(alias_of=holder))


def _held_by(db: Connection, ended: UUID, holder: UUID | None) -> None:
    """What was kept as its token is the new holder's; with none there is nobody to be hurt."""
    nobody_else = case((CandidateRow.grant_id == holder, None), else_=holder)
    held = update(CandidateRow).where(CandidateRow.held_by == ended)
    db.execute(held.values(held_by=None if holder is None else nobody_else))


def _needs_login(row: Any, ended: GrantId) -> Notice:
    return Notice(
        tenant=row.tenant,
        kind=Trigger.GRANT_NEEDS_LOGIN,
        episode=f"{Trigger.GRANT_NEEDS_LOGIN}:{row.id}:without:{ended}",
        grant=GrantId(row.id),
        key=key_of(row),
        user_id=row.user_id,
        reason=NO_REFRESH_TOKEN,
    )


def _record(row: Any, verb: str, detail: dict[str, object], now: datetime) -> AuditRecord:
    return AuditRecord(
        at=now,
        actor="worker:revoker",
        verb=verb,
        tenant=row.tenant,
        grant=GrantId(row.id),
        detail=detail,
    )
