"""A grant as merging sees it, read and locked inside the merging transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Table, select

from worker.domain.grant import ExpiryKind, Fingerprint, GrantId, GrantKey, GrantState
from worker.domain.merge import Ours, Waiting
from worker.store.filling import Fingerprints, words
from worker.store.seen import holds
from worker.store.sharing import holder_of
from worker.store.tables import CandidateRow, GrantRow

_grants = cast(Table, GrantRow.__table__)


class View:
    """Reads of one transaction."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._db = connection
        self._now = now

    def locked(self, key: GrantKey) -> Any:
        return self._db.execute(_of(key).with_for_update()).one_or_none()

    def found(self, key: GrantKey) -> Any:
        return self._db.execute(_of(key)).one_or_none()

    def ours(self, row: Any, prints: Fingerprints) -> Ours:
        return Ours(
            state=GrantState(row.state),
            rt_fp=row.rt_fp,
            at_fp=row.at_fp,
            seen=self.seen(row.id, prints.rt),
            waiting=self._waiting(row.id),
            upstream_at_fp=row.upstream_at_fp,
            login=row.upstream_login,
            scope=words(row.scope),
            expiry=ExpiryKind(row.expiry),
            expires_at=row.expires_at,
            in_flight=row.attempt is not None and row.lease_until > self._now,
            pull_fence=row.pull_fence,
            tombstoned_at=row.tombstoned_at,
        )

    def seen(self, grant: GrantId, rt: Fingerprint | None) -> frozenset[Fingerprint]:
        if rt is None:
            return frozenset()
        return frozenset([rt] if holds(self._db, grant, rt) else ())

    def holder(self, grant: GrantId, rt: Fingerprint | None) -> GrantId | None:
        """Another grant that spends this very refresh token already: ours is its alias (C18)."""
        holder = holder_of(self._db, rt, but=grant)
        return None if holder is None else GrantId(holder)

    def _waiting(self, grant: GrantId) -> dict[Fingerprint, Waiting]:
        asked = select(CandidateRow.rt_fp, CandidateRow.why, CandidateRow.created_at).where(
            CandidateRow.grant_id == grant, CandidateRow.spent_at.is_(None)
        )
        rows = self._db.execute(asked)
        return {Fingerprint(fp): Waiting(why=why, since=since) for fp, why, since in rows}


def _of(key: GrantKey) -> Any:
    return select(_grants).where(
        GrantRow.tenant == key.tenant,
        GrantRow.connection == key.connection,
        GrantRow.identity_user_id == key.identity_user_id,
        GrantRow.part == key.part.value,
    )
