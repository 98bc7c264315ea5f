"""A grant on its way out as a revoker gets it: its row, and the tokens kept beside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from worker.domain.burial import Buried, SealedPair
from worker.domain.grant import GrantId
from worker.store.filling import key_of
from worker.store.tables import CandidateRow, GrantRow

LATE_ANSWERS = timedelta(minutes=10)  # after a lease: the longest hold, and a journal's replay

BURIED = (
    GrantRow.id,
    GrantRow.tenant,
    GrantRow.connection,
    GrantRow.identity_user_id,
    GrantRow.part,
    GrantRow.user_id,
    GrantRow.provider,
    GrantRow.reason,
    GrantRow.tombstoned_at,
    GrantRow.failures,
    GrantRow.alias_of,
    GrantRow.generation,
    GrantRow.access_token,
    GrantRow.refresh_token,
    GrantRow.access_key,
    GrantRow.refresh_key,
    GrantRow.expires_at,
    GrantRow.attempt,
    GrantRow.lease_until,
    GrantRow.rt_fp,
)
CANDIDATE = (
    CandidateRow.id,
    CandidateRow.grant_id,
    CandidateRow.generation,
    CandidateRow.access_token,
    CandidateRow.refresh_token,
    CandidateRow.expires_at,
    CandidateRow.held_by,
    CandidateRow.parent_fp,
    CandidateRow.rt_fp,
    CandidateRow.spent_at,
)


def buried_of(row: Any, candidates: Sequence[Any], now: datetime) -> Buried:
    latest = _latest(row, candidates)
    pairs = []
    if row.access_token or row.refresh_token:
        pairs = [_pair(None, row, latest=latest is row and row.refresh_token is not None)]
    pairs += [
        _pair(one.id, one, shared=one.held_by is not None, latest=one is latest)
        for one in candidates
    ]
    arriving = row.lease_until + LATE_ANSWERS if row.attempt and row.lease_until else None
    return Buried(
        id=GrantId(row.id),
        key=key_of(row),
        user_id=row.user_id,
        provider=row.provider,
        tombstoned_at=row.tombstoned_at,
        failures=row.failures,
        shared=row.alias_of is not None,
        access_key=row.access_key,
        refresh_key=row.refresh_key,
        pairs=pairs,
        arriving_until=arriving if arriving and arriving > now else None,
    )


def _latest(row: Any, candidates: Sequence[Any]) -> Any:
    """The row itself, or the last of the successors that came of its refresh token."""
    latest, passed = row, set()
    while latest.rt_fp is not None and latest.rt_fp not in passed:
        passed.add(latest.rt_fp)
        came = [c for c in candidates if c.parent_fp == latest.rt_fp and c.spent_at is None]
        latest = max(came, key=lambda one: one.generation, default=latest)
    return latest


def _pair(
    candidate: int | None, row: Any, *, shared: bool = False, latest: bool = False
) -> SealedPair:
    return SealedPair(
        candidate=candidate,
        shared=shared,
        latest=latest,
        generation=row.generation,
        access_token=row.access_token,
        refresh_token=row.refresh_token,
        access_expires_at=row.expires_at,
    )


def another_arrived(connection: Connection, buried: Buried) -> bool:
    """A candidate that came while its siblings were being revoked: it has to be revoked first."""
    known = [pair.candidate for pair in buried.pairs if pair.candidate is not None]
    newer = select(CandidateRow.id).where(
        CandidateRow.grant_id == buried.id, CandidateRow.id.not_in(known)
    )
    return connection.execute(newer.limit(1)).first() is not None
