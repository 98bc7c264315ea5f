"""The columns of a claim and of an unfinished attempt, and the values made of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from worker.domain.attempt import Unfinished
from worker.domain.grant import (
    AttemptId,
    Claim,
    EarlierAttempt,
    Fingerprint,
    GrantId,
    GrantKey,
    GrantPart,
    GrantState,
    SealedTokens,
)
from worker.store.tables import GrantRow

FREE: dict[Any, Any] = {  # the columns of a row that nobody holds
    GrantRow.attempt: None,
    GrantRow.claim_node: None,
    GrantRow.claim_process: None,
    GrantRow.claim_fp: None,
    GrantRow.claimed_at: None,
    GrantRow.lease_until: None,
    GrantRow.uncertain: False,
}
CLAIM = (
    GrantRow.id,
    GrantRow.tenant,
    GrantRow.connection,
    GrantRow.identity_user_id,
    GrantRow.part,
    GrantRow.provider,
    GrantRow.user_id,
    GrantRow.attempt,
    GrantRow.fence,
    GrantRow.claim_fp,
    GrantRow.claimed_at,
    GrantRow.lease_until,
    GrantRow.generation,
    GrantRow.last_generation,
    GrantRow.access_token,
    GrantRow.refresh_token,
    GrantRow.access_key,
    GrantRow.refresh_key,
    GrantRow.scope,
    GrantRow.issued_at,
    GrantRow.expires_at,
    GrantRow.refresh_expires_at,
    GrantRow.due_at,
    GrantRow.not_before,
    GrantRow.rotated_before,
    GrantRow.failures,
    GrantRow.last_error,
    GrantRow.state,
    GrantRow.suspect_since,
    GrantRow.pulled_at,
    GrantRow.family,
    GrantRow.logged_in_at,
)
UNFINISHED = (
    GrantRow.id,
    GrantRow.tenant,
    GrantRow.connection,
    GrantRow.identity_user_id,
    GrantRow.part,
    GrantRow.provider,
    GrantRow.attempt,
    GrantRow.fence,
    GrantRow.claim_node,
    GrantRow.claim_process,
    GrantRow.claimed_at,
    GrantRow.lease_until,
    GrantRow.uncertain,
    GrantRow.expires_at,
    GrantRow.rotated_before,
)


def claim_of(row: Any, *, earlier: EarlierAttempt | None = None) -> Claim:
    return Claim(
        grant=GrantId(row.id),
        key=_key_of(row),
        provider=row.provider,
        user_id=row.user_id,
        attempt=AttemptId(row.attempt),
        fence=row.fence,
        parent_fp=None if row.claim_fp is None else Fingerprint(row.claim_fp),
        claimed_at=row.claimed_at,
        lease_until=row.lease_until,
        tokens=SealedTokens(
            generation=row.generation,
            access_token=row.access_token,
            refresh_token=row.refresh_token,
            access_key=row.access_key or b"",
            refresh_key=row.refresh_key or b"",
        ),
        scope=row.scope,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        due_at=row.due_at,
        not_before=row.not_before,
        rotated_before=row.rotated_before,
        failures=row.failures,
        state=GrantState(row.state),
        suspect_since=row.suspect_since,
        earlier=earlier,
        family=row.family,
        next_generation=row.last_generation,
        logged_in_at=row.logged_in_at,
        refresh_expires_at=row.refresh_expires_at,
        pulled_at=row.pulled_at,
        last_error=row.last_error,
    )


def unfinished_of(row: Any, now: datetime) -> Unfinished:
    return Unfinished(
        grant=GrantId(row.id),
        key=_key_of(row),
        provider=row.provider,
        earlier=EarlierAttempt(
            attempt=AttemptId(row.attempt),
            node=row.claim_node,
            process=row.claim_process,
            began_at=row.claimed_at,
            uncertain=row.uncertain,
        ),
        fence=row.fence,
        lease_until=row.lease_until,
        expires_at=row.expires_at,
        rotated_before=row.rotated_before,
        seen_at=now,
    )


def _key_of(row: Any) -> GrantKey:
    return GrantKey(
        tenant=row.tenant,
        connection=row.connection,
        identity_user_id=row.identity_user_id,
        part=GrantPart(row.part),
    )
