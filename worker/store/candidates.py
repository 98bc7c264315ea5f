"""Refresh tokens kept beside the current one, and when one of them takes its place (I3).

A candidate takes over in three cases: it is the successor of the current token, which is then
spent; a login brought it while an exchange was under way (M7); or the provider refused the
current one, and the newest that is left has its turn. A renewal proves what came before it spent.

What came of the current token and is somebody else's never takes over: the token is spent, and the
grant ends as the attempt would have ended it (`OTHER_ACCOUNT`).

One that another grant holds, or held when it came, is that one's to spend, and may be spent by now:
in its place the grant becomes an alias (C18).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeGuard
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, case, delete, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain.attempt import OTHER_ACCOUNT, Brought, Ending, Fate
from worker.domain.grant import ExpiryKind, GrantId, GrantState
from worker.domain.ports import Notice
from worker.store import arrays, outbox
from worker.store.claim_rows import FREE
from worker.store.filling import key_of
from worker.store.sharing import following, holder_of
from worker.store.tables import CandidateRow, GrantRow

_SPENDABLE = (GrantState.ACTIVE.value, GrantState.SUSPECT.value, GrantState.NEEDS_REAUTH.value)
_TRIED_ON_REFUSAL = ("lost_fence", "unread", "superseded_family", "login")
_ACTIVE = and_(GrantRow.renewable, GrantRow.state != GrantState.NEEDS_REAUTH.value)
_OURS = case((CandidateRow.why == OTHER_ACCOUNT, 0), else_=1)
_LONGEST_CHAIN = 50  # successors of successors, as a replay after a restore may bring them


def keep(
    db: Connection, one: Brought, why: str, now: datetime, *, held_by: UUID | None = None
) -> None:
    """Store the refresh token that `one` brought, beside the current one.

    Where the one it came of waits beside it, no login promotes that any more, and a refusal tries
    it only where parents live: it was sent, and this is its successor.
    """
    db.execute(
        update(CandidateRow)
        .where(
            CandidateRow.grant_id == one.grant,
            CandidateRow.rt_fp == one.parent_fp,
            CandidateRow.spent_at.is_(None),
        )
        .values(why="parent")
    )
    _insert(
        db,
        {
            "grant_id": one.grant,
            "generation": one.generation,
            "family": one.family,
            "fence": one.fence,
            "parent_fp": one.parent_fp,
            "rt_fp": one.rt_fp,
            "refresh_token": one.refresh_token,
            "access_token": one.access_token,
            "at_fp": one.at_fp,
            "scope": one.scope,
            "issued_at": one.issued_at,
            "expires_at": one.expires_at,
            "why": why,
            "created_at": now,
            "spent_at": None,
            "held_by": held_by,
        },
    )


def bridge(db: Connection, one: Brought) -> None:
    """What came of the token that `one` brings again came of that one's parent, too.

    Journals may bring a successor's successor first, after which nothing is kept of the one between
    them: whoever holds the parent still must find that it was spent (I4).
    """
    if one.parent_fp is None:
        return
    db.execute(
        update(CandidateRow)
        .where(
            CandidateRow.grant_id == one.grant,
            CandidateRow.parent_fp == one.rt_fp,
            CandidateRow.spent_at.is_(None),
        )
        .values(parent_fp=one.parent_fp)
    )


def newest(db: Connection, grant: GrantId, *, parents: bool, lesser: bool) -> Any:
    """The one to try next when the current refresh token is refused; None: there is none.

    Args:
        parents: also one whose successor we were given. Where that spends it, to send it again
            would cost the family (I4).
        lesser: also one that can do less than the current, which waits as long as that lives (M6).
    """
    tried = [*_TRIED_ON_REFUSAL, *["parent"] * parents, *["fewer_scopes"] * lesser]
    asked = (
        select(CandidateRow.__table__)
        .where(
            CandidateRow.grant_id == grant,
            CandidateRow.spent_at.is_(None),
            CandidateRow.why.in_(tried),
        )
        .order_by(CandidateRow.family.desc(), CandidateRow.generation.desc())
        .limit(1)
    )
    return db.execute(asked).one_or_none()


def refused_before(db: Connection, row: Any) -> Any:
    """A newer one than the current, refused once; None: there is none."""
    newer = or_(
        CandidateRow.family > row.family,
        and_(CandidateRow.family == row.family, CandidateRow.generation > row.generation),
    )
    asked = (
        select(CandidateRow.__table__)
        .where(
            CandidateRow.grant_id == row.id,
            CandidateRow.why == "refused",
            newer,
        )
        .order_by(CandidateRow.family.desc(), CandidateRow.generation.desc())
        .limit(1)
    )
    return db.execute(asked).one_or_none()


def return_to(db: Connection, row: Any, refused: Any, due_at: datetime, now: datetime) -> None:
    """The others were refused as well: the last word is about the latest (I8)."""
    if _swap(db, row, refused, "refused", now, spent_at=now):
        return
    suspect = {
        GrantRow.state: GrantState.SUSPECT.value,
        GrantRow.reason: row.last_error or "invalid_grant",
        GrantRow.suspect_since: refused.spent_at,
        GrantRow.due_at: due_at,
    }
    db.execute(update(GrantRow).where(GrantRow.id == row.id).values(suspect))


def replace_refused(db: Connection, row: Any, waiting: Any, now: datetime) -> None:
    """`waiting` becomes current; the refused one is kept as tried, never to be sent again."""
    _swap(db, row, waiting, "refused", now, spent_at=now)


def reconsider(
    db: Connection,
    endings: Sequence[Ending],
    fates: Mapping[tuple[GrantId, int], Fate],
    now: datetime,
) -> None:
    """Let the candidates of these grants rise or rest. One look; usually there are none."""
    grants = [ending.grant for ending in endings]
    for _ in range(_LONGEST_CHAIN):
        if not _any_waits(db, grants):
            return
        for ending in endings:
            if _renewed(ending, fates):
                _rest(db, ending, now)
        grants = rise(db, grants, now)
        if not grants:
            return


def _any_waits(db: Connection, grants: Sequence[GrantId]) -> bool:
    if db.dialect.name == "postgresql":
        asked = db.exec_driver_sql(_POSTGRES_WAITS, {"grants": arrays.uuids(grants)})
    else:
        asked = db.execute(_WAITS, {"grants": grants})
    return asked.first() is not None


_WAITS = (
    select(CandidateRow.id)
    .where(
        CandidateRow.grant_id.in_(bindparam("grants", expanding=True)),
        CandidateRow.spent_at.is_(None),
    )
    .limit(1)
)
_POSTGRES_WAITS = """
SELECT id FROM candidates
WHERE grant_id = ANY(%(grants)s::uuid[]) AND spent_at IS NULL LIMIT 1
"""


def successor_waits() -> Any:
    """Of a grant's row: a candidate came of the very token that is current."""
    return exists().where(
        CandidateRow.grant_id == GrantRow.id,
        CandidateRow.parent_fp == GrantRow.rt_fp,
        CandidateRow.spent_at.is_(None),
    )


def _renewed(ending: Ending, fates: Mapping[tuple[GrantId, int], Fate]) -> TypeGuard[Brought]:
    """A token that came back itself (C22) proves nothing: its successor may be a candidate."""
    applied = fates[ending.grant, ending.fence] is Fate.APPLIED
    return isinstance(ending, Brought) and ending.read and applied and not ending.echoed


def _rest(db: Connection, brought: Brought, now: datetime) -> None:
    """A family that has renewed proves all before it spent or superseded (M3); but not what came of
    the very token that it holds still, whoever was answered with that one again (C22)."""
    before = or_(
        CandidateRow.family < brought.family,
        and_(CandidateRow.family == brought.family, CandidateRow.generation < brought.generation),
    )
    db.execute(
        update(CandidateRow)
        .where(
            CandidateRow.grant_id == brought.grant,
            CandidateRow.spent_at.is_(None),
            before,
            or_(CandidateRow.parent_fp.is_(None), CandidateRow.parent_fp != brought.rt_fp),
        )
        .values(spent_at=now)
    )


def rise(db: Connection, grants: Sequence[GrantId], now: datetime) -> list[GrantId]:
    """Promote what is the current token's successor, or a login's; return whose changed.

    Where the answer was for somebody else and its attempt never told so, a crash came in between:
    without its verdict the parent would be sent again.
    """
    rises = or_(
        CandidateRow.parent_fp == GrantRow.rt_fp,
        and_(CandidateRow.why == "login", CandidateRow.family > GrantRow.family),
    )
    found = db.execute(
        select(CandidateRow.__table__)
        .join(GrantRow, GrantRow.id == CandidateRow.grant_id)
        .where(
            CandidateRow.grant_id.in_(grants),
            CandidateRow.spent_at.is_(None),
            or_(CandidateRow.why != OTHER_ACCOUNT, _ACTIVE),
            or_(GrantRow.attempt.is_(None), GrantRow.uncertain),  # nobody is at work on it
            GrantRow.tombstoned_at.is_(None),
            GrantRow.state.in_(_SPENDABLE),
            rises,
        )
        .order_by(_OURS, CandidateRow.family, CandidateRow.fence, CandidateRow.generation)
    ).all()
    chosen = {candidate.grant_id: candidate for candidate in found}  # the newest of each grant
    for grant, candidate in chosen.items():
        locked = select(GrantRow.__table__).where(GrantRow.id == grant).with_for_update()
        why = "superseded_family" if candidate.why == "login" else "parent"
        row = db.execute(locked).one()
        if candidate.why == OTHER_ACCOUNT:
            _stop(db, row, now)
            continue
        _swap(db, row, candidate, why, now, spent_at=None)
        if row.state == GrantState.NEEDS_REAUTH.value:
            outbox.add(db, [_recovered(row, candidate)], now)
    return list(chosen)


def _stop(db: Connection, row: Any, now: datetime) -> None:
    """As its attempt would have: nothing to renew with, and whoever can look into it is told."""
    ended = {
        GrantRow.renewable: False,
        GrantRow.reason: OTHER_ACCOUNT,
        GrantRow.last_error: OTHER_ACCOUNT,
        GrantRow.due_at: None,
    }
    db.execute(update(GrantRow).where(GrantRow.id == row.id).values(FREE | ended))
    kind = "grant_other_account"
    notice = Notice(
        tenant=row.tenant,
        kind=kind,
        episode=f"{kind}:{row.id}:{row.family}",
        grant=GrantId(row.id),
        key=key_of(row),
        user_id=row.user_id,
        reason=OTHER_ACCOUNT,
    )
    outbox.add(db, [notice], now)


def _recovered(row: Any, candidate: Any) -> Notice:
    """Whoever heard that a login is needed hears that it is not any more."""
    return Notice(
        tenant=row.tenant,
        kind="grant_recovered",
        episode=f"grant_recovered:{row.id}:{candidate.generation}",
        grant=GrantId(row.id),
        key=key_of(row),
        user_id=row.user_id,
        reason="login" if candidate.why == "login" else "late_answer",
    )


def rise_all(db: Connection, grants: Sequence[GrantId], now: datetime) -> None:
    """The same, to the last of a chain: a replay after a restore may have brought several."""
    for _ in range(_LONGEST_CHAIN):
        if not (grants := rise(db, grants, now)):
            return


def _swap(
    db: Connection, row: Any, candidate: Any, why: str, now: datetime, *, spent_at: datetime | None
) -> bool:
    """Whether the grant became an alias, as `candidate` is another's."""
    holder = candidate.held_by or holder_of(db, candidate.rt_fp, but=row.id)
    db.execute(delete(CandidateRow).where(CandidateRow.id == candidate.id))
    if row.rt_fp is not None:
        _insert(db, _set_aside(row, why, now, spent_at))
    values = FREE | {
        GrantRow.state: GrantState.ACTIVE.value,
        GrantRow.reason: None,
        GrantRow.renewable: True,
        GrantRow.alias_of: None,
        GrantRow.generation: candidate.generation,
        GrantRow.family: candidate.family,
        GrantRow.access_token: candidate.access_token,
        GrantRow.refresh_token: candidate.refresh_token,
        GrantRow.at_fp: candidate.at_fp,
        GrantRow.rt_fp: candidate.rt_fp,
        GrantRow.scope: candidate.scope or row.scope,
        GrantRow.issued_at: candidate.issued_at,
        GrantRow.expiry: (ExpiryKind.AT if candidate.expires_at else ExpiryKind.UNTOLD).value,
        GrantRow.expires_at: candidate.expires_at,
        GrantRow.not_before: None,
        GrantRow.suspect_since: None,
    }
    if why != "parent" or row.due_at is None:  # a successor waits as long as its parent would
        values |= {GrantRow.due_at: now, GrantRow.failures: 0, GrantRow.last_error: None}
    if candidate.why == "login":
        values |= {GrantRow.logged_in_at: candidate.issued_at, GrantRow.refresh_expires_at: None}
    if holder is not None:
        values |= following(holder)
    db.execute(update(GrantRow).where(GrantRow.id == row.id).values(values))
    return holder is not None


def _set_aside(row: Any, why: str, now: datetime, spent_at: datetime | None) -> dict[str, Any]:
    return {
        "grant_id": row.id,
        "generation": row.generation,
        "family": row.family,
        "fence": row.fence,
        "parent_fp": None,
        "rt_fp": row.rt_fp,
        "refresh_token": row.refresh_token,
        "access_token": row.access_token,
        "at_fp": row.at_fp,
        "scope": row.scope,
        "issued_at": row.issued_at,
        "expires_at": row.expires_at,
        "why": why,
        "created_at": now,
        "spent_at": spent_at,
    }


def _insert(db: Connection, values: dict[str, Any]) -> None:
    """A token that was a candidate before is one again, with its newer story."""
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    newer = {name: values[name] for name in ("why", "spent_at")}
    db.execute(
        insert(CandidateRow)
        .values(**values)
        .on_conflict_do_update(
            index_elements=[CandidateRow.grant_id, CandidateRow.rt_fp], set_=newer
        )
    )
