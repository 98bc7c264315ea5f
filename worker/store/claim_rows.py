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
    GrantRow.first_claimed_at,
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
    GrantRow.unproven_until,
    GrantRow.retaken_fp,
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
    GrantRow.first_claimed_at,
    GrantRow.lease_until,
    GrantRow.uncertain,
    GrantRow.expires_at,
    GrantRow.rotated_before,
    GrantRow.claim_fp,
    GrantRow.unproven_until,
    GrantRow.retaken_fp,
)


# Looking a member of an enumeration up by its value costs as much as a third of a claim.
_PARTS = {part.value: part for part in GrantPart}
_STATES = {state.value: state for state in GrantState}


def claim_of(row: Any, *, earlier: EarlierAttempt | None = None) -> Claim:
    """`row`: the columns of CLAIM, in their order: by name they cost more than all the rest."""
    (
        grant,
        tenant,
        connection,
        identity_user_id,
        part,
        provider,
        user_id,
        attempt,
        fence,
        claim_fp,
        claimed_at,
        first_claimed_at,
        lease_until,
        generation,
        last_generation,
        access_token,
        refresh_token,
        access_key,
        refresh_key,
        scope,
        issued_at,
        expires_at,
        refresh_expires_at,
        due_at,
        not_before,
        rotated_before,
        failures,
        last_error,
        state,
        suspect_since,
        pulled_at,
        family,
        logged_in_at,
        unproven_until,
        retaken_fp,
    ) = row
    return Claim(
        grant=GrantId(grant),
        key=GrantKey(
            tenant=tenant,
            connection=connection,
            identity_user_id=identity_user_id,
            part=_PARTS[part],
        ),
        provider=provider,
        user_id=user_id,
        attempt=AttemptId(attempt),
        fence=fence,
        parent_fp=None if claim_fp is None else Fingerprint(claim_fp),
        claimed_at=claimed_at,
        first_claimed_at=first_claimed_at or claimed_at,
        lease_until=lease_until,
        tokens=SealedTokens(
            generation=generation,
            access_token=access_token,
            refresh_token=refresh_token,
            access_key=access_key or b"",
            refresh_key=refresh_key or b"",
        ),
        scope=scope,
        issued_at=issued_at,
        expires_at=expires_at,
        due_at=due_at,
        not_before=not_before,
        rotated_before=rotated_before,
        failures=failures,
        state=_STATES[state],
        suspect_since=suspect_since,
        earlier=earlier,
        family=family,
        next_generation=last_generation,
        logged_in_at=logged_in_at,
        refresh_expires_at=refresh_expires_at,
        pulled_at=pulled_at,
        last_error=last_error,
        unproven_until=unproven_until if retaken_fp == claim_fp else None,
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
            token_since=min(row.first_claimed_at or row.claimed_at, row.claimed_at),
            uncertain=row.uncertain,
            unproven_until=row.unproven_until if row.retaken_fp == row.claim_fp else None,
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
