"""Tombstones: from the moment one commits nothing is served or spent, and nothing comes back (I14).

TOMBSTONED → REVOKING (a revoker has it; `not_before` is its lease and the pause between tries) →
ERASED (ciphertexts, wrapped keys and candidates destroyed; the row stays, so that nothing that
arrives late finds the place free).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    and_,
    case,
    delete,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)

from worker.domain.burial import Bequest, Buried, Receipt, Selection
from worker.domain.event import Trigger
from worker.domain.grant import ExpiryKind, GrantId, GrantState
from worker.domain.held import GONE
from worker.domain.ports import AuditRecord, Notice
from worker.store import inheriting
from worker.store.buried_rows import BURIED, CANDIDATE, another_arrived, buried_of
from worker.store.concerned import meant
from worker.store.engine import reading, writing
from worker.store.filling import key_of
from worker.store.handout import Audit
from worker.store.tables import AuditRow, CandidateRow, GrantRow, PullRow
from worker.store.types import Instant

LEASE = timedelta(minutes=2)  # of one revoker on one grant
_SLOWEST = timedelta(hours=1)  # so far behind the store's may the clock of a reader be

AddNotices = Callable[[Connection, Sequence[Notice], datetime], None]

_WAITING = text("grants.state IN ('tombstoned', 'revoking')")  # literal: fits the partial index
_GONE = [state.value for state in GONE]
_REPLACEABLE = and_(
    GrantRow.state == GrantState.ACTIVE.value, GrantRow.renewable, GrantRow.alias_of.is_(None)
)
_ENDED = {
    "access_token": None,
    "refresh_token": None,
    "access_key": None,
    "refresh_key": None,
    "at_fp": None,
    "rt_fp": None,
    "scope": None,
    "api_base": None,
}


class TombstoneRepository:
    """Every step is one short transaction with its audit in it (I19)."""

    def __init__(self, engine: Engine, audit: Audit, add_notices: AddNotices) -> None:
        self._engine = engine
        self._audit = audit
        self._add_notices = add_notices

    def bury(
        self,
        selection: Selection,
        *,
        why: str,
        actor: str,
        now: datetime,
        user_gone: bool = False,
        told: Mapping[str, object] | None = None,
    ) -> Sequence[GrantId]:
        """Tombstone what is selected and not gone yet.

        The fence rises, so that an exchange under way keeps its answer as a candidate, where the
        revoker finds it (C20). `user_gone`: a pull that began before never merges either.
        `told`: what the receipt is to tell besides.
        """
        with writing(self._engine) as connection:
            quarantined = inheriting.quarantine(connection, meant(selection), now)
            rows = connection.execute(
                update(GrantRow)
                .where(meant(selection), GrantRow.state.not_in(_GONE))
                .values(
                    state=GrantState.TOMBSTONED.value,
                    reason=why,
                    tombstoned_at=now,
                    due_at=None,
                    not_before=None,
                    failures=0,
                    fence=GrantRow.fence + 1,
                )
                .returning(GrantRow.id, GrantRow.user_id, *_KEY)
            ).all()
            if user_gone and selection.user_id is not None:
                _raise_pull_fence(connection, selection.tenant, selection.user_id, now)
            if quarantined:
                self._audit.append(connection, quarantined)
            detail = {"why": why, **(told or {})}
            self._tell(connection, rows, detail=detail, actor=actor, now=now)
        return [GrantId(row.id) for row in rows]

    def ready(self, now: datetime, limit: int) -> Sequence[Buried]:
        """Lease tombstoned grants whose pause is over."""
        with writing(self._engine) as connection:
            waiting = (
                select(GrantRow.id)
                .where(_WAITING, or_(GrantRow.not_before.is_(None), GrantRow.not_before <= now))
                .order_by(GrantRow.tombstoned_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            ids = connection.execute(waiting).scalars().all()
            if not ids:
                return []
            rows = connection.execute(
                update(GrantRow)
                .where(GrantRow.id.in_(ids))
                .values(state=GrantState.REVOKING.value, not_before=now + LEASE)
                .returning(*BURIED)
            ).all()
            candidates = connection.execute(
                select(*CANDIDATE).where(CandidateRow.grant_id.in_(ids))
            ).all()
            found = [
                buried_of(row, [c for c in candidates if c.grant_id == row.id], now) for row in rows
            ]
            heirs = [
                inheriting.heir_of(connection, row, buried.pairs)
                for row, buried in zip(rows, found, strict=True)
            ]
        return [replace(one, heir=heir) for one, heir in zip(found, heirs, strict=True)]

    def settle(
        self,
        buried: Buried,
        receipts: Sequence[Receipt],
        *,
        next_at: datetime | None,
        now: datetime,
        bequest: Bequest | None = None,
    ) -> None:
        """Write the receipts; destroy what is done with. `next_at` None: all of it (ERASED).

        The row is locked before the last look: whatever keeps a token beside it holds that lock.
        `bequest`: its refresh token is handed over in the same transaction, if that can be still.
        """
        with writing(self._engine) as connection:
            followers = inheriting.lock(connection, buried.id)
            if next_at is None and (
                another_arrived(connection, buried) or not _is_there(followers, bequest)
            ):
                next_at, receipts = now, () if bequest else receipts
            if next_at is None:
                self._erase(connection, buried, followers or (), bequest, now)
            else:
                self._postpone(connection, buried, receipts, next_at)
            records = [_told(buried, receipt, now) for receipt in receipts]
            if next_at is None:
                records.append(_record(buried, "erased", {"keys_destroyed": True}, now))
            if records:
                self._audit.append(connection, records)

    def receipt(self, grant: GrantId) -> Sequence[AuditRecord]:
        """What was done, oldest first: the erasure receipt is read from the audit itself.

        Empty as long as the grant has not been given up.
        """
        asked = (
            select(*_ENTRY)
            .where(AuditRow.grant_id == grant, AuditRow.verb.in_(_RECEIPT_VERBS))
            .order_by(AuditRow.at, AuditRow.chain, AuditRow.seq)
        )
        with reading(self._engine) as reader:
            rows = reader.execute(asked).all()
        if all(row.verb == "withheld" for row in rows):
            return []
        return [
            AuditRecord(
                at=r.at, actor=r.actor, verb=r.verb, tenant=r.tenant, grant=grant, detail=r.detail
            )
            for r in rows
        ]

    def of_user(self, tenant: str, user_id: str) -> Sequence[GrantId]:
        """All grants that point at an Auth0 user, the erased ones too."""
        mine = select(GrantRow.id).where(GrantRow.tenant == tenant, GrantRow.user_id == user_id)
        with reading(self._engine) as reader:
            return [GrantId(found) for found in reader.execute(mine).scalars()]

    def withdraw(
        self, selection: Selection, *, why: str, actor: str, now: datetime
    ) -> Sequence[GrantId]:
        """Stop serving the present access tokens, and have renewed at once what can be.

        For tokens that leaked while the consent is good: the old one counts as ended, to a reader
        whose clock is slow as well, and so do those kept beside it. What no renewal replaces is not
        served either, until a login brings another.
        """
        holders = select(GrantRow.alias_of).where(
            meant(selection), GrantRow.alias_of.is_not(None), GrantRow.state.not_in(_GONE)
        )
        concerned = or_(meant(selection), GrantRow.id.in_(holders))
        kept = CandidateRow.grant_id.in_(select(GrantRow.id).where(concerned))
        with writing(self._engine) as connection:
            connection.execute(update(CandidateRow).where(kept).values(expires_at=now - _SLOWEST))
            rows = connection.execute(
                update(GrantRow)
                .where(concerned, GrantRow.state.not_in(_GONE))
                .values(
                    expires_at=now - _SLOWEST,
                    expiry=ExpiryKind.AT.value,
                    due_at=case((_REPLACEABLE, literal(now, Instant())), else_=GrantRow.due_at),
                )
                .returning(GrantRow.id, *_KEY)
            ).all()
            records = [
                AuditRecord(
                    at=now,
                    actor=actor,
                    verb="withdrawn",
                    tenant=row.tenant,
                    grant=GrantId(row.id),
                    detail={"why": why},
                )
                for row in rows
            ]
            if records:
                self._audit.append(connection, records)
        return [GrantId(row.id) for row in rows]

    def _tell(
        self,
        connection: Connection,
        rows: Sequence[Any],
        *,
        detail: Mapping[str, object],
        actor: str,
        now: datetime,
    ) -> None:
        records = [
            AuditRecord(
                at=now,
                actor=actor,
                verb="tombstoned",
                tenant=row.tenant,
                grant=GrantId(row.id),
                detail=detail,
            )
            for row in rows
        ]
        notices = [
            Notice(
                tenant=row.tenant,
                kind=Trigger.GRANT_REVOKED,
                episode=f"revoked:{row.id}",
                grant=GrantId(row.id),
                key=key_of(row),
                user_id=row.user_id,
                reason=str(detail["why"]),
            )
            for row in rows
        ]
        if records:
            self._audit.append(connection, records)
            self._add_notices(connection, notices, now)

    def _erase(
        self,
        connection: Connection,
        buried: Buried,
        followers: Sequence[Any],
        bequest: Bequest | None,
        now: datetime,
    ) -> None:
        asked = select(GrantRow.__table__).where(GrantRow.id == buried.id, _WAITING)
        if (row := connection.execute(asked).one_or_none()) is None:
            return
        connection.execute(delete(CandidateRow).where(CandidateRow.grant_id == buried.id))
        connection.execute(
            update(GrantRow)
            .where(GrantRow.id == buried.id, _WAITING)
            .values(state=GrantState.ERASED.value, not_before=None, **_ENDED)
        )
        if bequest is not None:
            records = inheriting.hand_over(connection, row, followers, bequest, now)
            notices: Sequence[Notice] = ()
        else:
            records, notices = inheriting.leave(connection, row, followers, now)
        if records:
            self._audit.append(connection, records)
        if notices:
            self._add_notices(connection, notices, now)

    def _postpone(
        self,
        connection: Connection,
        buried: Buried,
        receipts: Sequence[Receipt],
        next_at: datetime,
    ) -> None:
        done = [receipt for receipt in receipts if receipt.final]
        spent = [r.pair.candidate for r in done if r.pair.candidate is not None]
        connection.execute(delete(CandidateRow).where(CandidateRow.id.in_(spent)))
        values: dict[str, object] = {"not_before": next_at}
        if any(receipt.pair.candidate is None for receipt in done):
            values |= {"access_token": None, "refresh_token": None}
        if len(done) < len(receipts):
            values["failures"] = buried.failures + 1
        connection.execute(
            update(GrantRow).where(GrantRow.id == buried.id, _WAITING).values(**values)
        )


_KEY = (GrantRow.tenant, GrantRow.connection, GrantRow.identity_user_id, GrantRow.part)
_ENTRY = (AuditRow.at, AuditRow.actor, AuditRow.verb, AuditRow.tenant, AuditRow.detail)
_RECEIPT_VERBS = ("withheld", "tombstoned", "revocation", "erased")


def _raise_pull_fence(connection: Connection, tenant: str, user_id: str, now: datetime) -> None:
    subject = f"user:{user_id}"
    raised = connection.execute(
        update(PullRow)
        .where(PullRow.tenant == tenant, PullRow.subject == subject)
        .values(fence=PullRow.fence + 1)
    )
    if not raised.rowcount:
        values = {"fence": 1, "missing": 0, "reserved_at": now}
        connection.execute(insert(PullRow).values(tenant=tenant, subject=subject, **values))


def _is_there(followers: Sequence[Any] | None, bequest: Bequest | None) -> bool:
    """Nobody new follows, and the heir, if there is one, follows still."""
    if followers is None:
        return False
    if bequest is None:
        return True
    heir = bequest.heir
    return any((row.id, row.generation) == (heir.id, heir.generation) for row in followers)


def _told(buried: Buried, receipt: Receipt, now: datetime) -> AuditRecord:
    detail = {"outcome": receipt.outcome, "generation": receipt.pair.generation, **receipt.detail}
    return _record(buried, "revocation", detail, now)


def _record(buried: Buried, verb: str, detail: dict[str, object], now: datetime) -> AuditRecord:
    return AuditRecord(
        at=now,
        actor="worker:revoker",
        verb=verb,
        tenant=buried.key.tenant,
        grant=buried.id,
        detail=detail,
    )
