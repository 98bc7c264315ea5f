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


_NAMES = tuple(column.key for column in CLAIM)


def claim_of(row: Any, *, earlier: EarlierAttempt | None = None) -> Claim:
    """`row`: the columns of CLAIM. Asking a row for each by name costs more than all the rest."""
    of = dict(zip(_NAMES, row, strict=True))
    return Claim(
        grant=GrantId(of["id"]),
        key=GrantKey(
            tenant=of["tenant"],
            connection=of["connection"],
            identity_user_id=of["identity_user_id"],
            part=GrantPart(of["part"]),
        ),
        provider=of["provider"],
        user_id=of["user_id"],
        attempt=AttemptId(of["attempt"]),
        fence=of["fence"],
        parent_fp=None if of["claim_fp"] is None else Fingerprint(of["claim_fp"]),
        claimed_at=of["claimed_at"],
        first_claimed_at=of["first_claimed_at"] or of["claimed_at"],
        lease_until=of["lease_until"],
        tokens=SealedTokens(
            generation=of["generation"],
            access_token=of["access_token"],
            refresh_token=of["refresh_token"],
            access_key=of["access_key"] or b"",
            refresh_key=of["refresh_key"] or b"",
        ),
        scope=of["scope"],
        issued_at=of["issued_at"],
        expires_at=of["expires_at"],
        due_at=of["due_at"],
        not_before=of["not_before"],
        rotated_before=of["rotated_before"],
        failures=of["failures"],
        state=GrantState(of["state"]),
        suspect_since=of["suspect_since"],
        earlier=earlier,
        family=of["family"],
        next_generation=of["last_generation"],
        logged_in_at=of["logged_in_at"],
        refresh_expires_at=of["refresh_expires_at"],
        pulled_at=of["pulled_at"],
        last_error=of["last_error"],
        unproven_until=of["unproven_until"] if of["retaken_fp"] == of["claim_fp"] else None,
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
