"""Column values of a grant, or of a candidate, for tokens that came from Auth0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.domain.grant import ExpiryKind, Fingerprint, GrantId, GrantKey, GrantPart, GrantState
from worker.domain.merge import Arrival, Theirs, Why
from worker.domain.ports import Vault
from worker.domain.rotation import HOLD
from worker.domain.schedule import earliest, renewal_time, spread_of
from worker.domain.secret import Secret

NOT_RENEWABLE = "not_renewable"
NO_REFRESH_TOKEN = "no_refresh_token"
NO_ACCESS_TOKEN = "no_access_token"


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Of one identity's tokens."""

    rt: Fingerprint | None
    at: Fingerprint | None

    @classmethod
    def of(cls, arrival: Arrival, vault: Vault) -> Fingerprints:
        rt, at = arrival.refresh_token, arrival.access_token
        return cls(
            rt=vault.fingerprint(rt) if rt else None, at=vault.fingerprint(at) if at else None
        )


def current_of(
    row: Mapping[str, Any],
    arrival: Arrival,
    prints: Fingerprints,
    *,
    vault: Vault,
    generation: int,
    state: GrantState,
    alias_of: GrantId | None,
    now: datetime,
) -> dict[str, Any]:
    """The columns of a grant whose current generation `arrival` becomes.

    Args:
        row: gives `id`, `access_key` and `refresh_key`; the keys stay with the grant.
        alias_of: a grant that spends this very refresh token: ours then holds none of it (C18).
    """
    reason, renewable = _renewable(arrival, alias_of)
    own_rt = prints.rt if alias_of is None else None
    issued_at = arrival.issued_at or now
    idle = state is not GrantState.ACTIVE or not renewable or alias_of is not None
    return {
        "strategy": arrival.strategy,
        "provider": arrival.provider,
        "state": state.value,
        "reason": _quarantine(row) if state is GrantState.QUARANTINED else reason,
        "renewable": renewable,
        "alias_of": alias_of,
        "generation": generation,
        "last_generation": generation,
        "access_token": _sealed(row, arrival, generation, "at", vault),
        "refresh_token": _sealed(row, arrival, generation, "rt", vault) if own_rt else None,
        "at_fp": prints.at,
        "rt_fp": own_rt,
        "token_type": arrival.token_type,
        "scope": arrival.scope,
        "issued_at": issued_at,
        "expiry": arrival.expiry.value,
        "expires_at": arrival.expires_at,
        "refresh_expires_at": None,
        "logged_in_at": issued_at,
        "not_before": earliest(issued_at, arrival.expires_at, arrival.lifetimes),
        "due_at": None if idle else _due(row["id"], arrival, now),
        "failures": 0,
        "last_error": None,
        "suspect_since": None,
        "warned_at": None,
    }


def candidate_of(
    row: Any,
    arrival: Arrival,
    prints: Fingerprints,
    *,
    vault: Vault,
    generation: int,
    why: Why,
    now: datetime,
) -> dict[str, Any]:
    """A login's tokens that may not be current yet (M6, M7, M8)."""
    return {
        "grant_id": row.id,
        "generation": generation,
        "family": row.family + 1,
        "rt_fp": prints.rt,
        "refresh_token": _sealed(row._mapping, arrival, generation, "rt", vault),
        "access_token": _sealed(row._mapping, arrival, generation, "at", vault),
        "at_fp": prints.at,
        "scope": arrival.scope,
        "issued_at": arrival.issued_at or now,
        "expires_at": arrival.expires_at,
        "why": why.value,
        "created_at": now,
    }


def superseded(row: Any, now: datetime) -> dict[str, Any]:
    """The family a login has replaced, kept until the new one has renewed once (M3)."""
    return {
        "grant_id": row.id,
        "generation": row.generation,
        "family": row.family,
        "rt_fp": row.rt_fp,
        "refresh_token": row.refresh_token,
        "access_token": row.access_token,
        "at_fp": row.at_fp,
        "scope": row.scope,
        "issued_at": row.issued_at,
        "expires_at": row.expires_at,
        "why": "superseded_family",
        "created_at": now,
    }


def reschedule(row: Any, arrival: Arrival, state: GrantState, now: datetime) -> dict[str, Any]:
    """When a grant is due whose access token was replaced beside its refresh token."""
    if state is not GrantState.ACTIVE or not row.renewable or row.alias_of is not None:
        return {}
    return {"due_at": _due(row.id, arrival, now)}


def reclassified(row: Any, arrival: Arrival, now: datetime) -> dict[str, Any]:
    """What a known copy says anew: the connection, the catalogue or the operator's word may have
    changed since its tokens were taken over. Nobody has to log in again for that.

    What became unrenewable keeps its place: each attempt says so, until it is mended.
    """
    if not arrival.provider or row.attempt is not None or row.alias_of is not None:
        return {}
    if (arrival.refresh_token is None) != (row.refresh_token is None):
        return {}  # M4: what Auth0 has left of a copy is no sign of what we hold
    changed = {"provider": arrival.provider} if row.provider != arrival.provider else {}
    held = {"rt": row.refresh_token, "at": row.access_token}.get(arrival.spends)
    waits = not row.renewable and row.reason in _MENDED_BY_A_READ
    if row.state != GrantState.ACTIVE or not waits or held is None or arrival.not_renewable:
        return changed
    due_at = renewal_time(
        issued_at=row.issued_at,
        expiry=ExpiryKind(row.expiry),
        expires_at=row.expires_at,
        lifetimes=arrival.lifetimes,
        spread=spread_of(GrantId(row.id)),
        refresh_expires_at=row.refresh_expires_at,
    )
    return changed | {"renewable": True, "reason": None, "due_at": due_at and max(due_at, now)}


_MENDED_BY_A_READ = frozenset({NOT_RENEWABLE, NO_REFRESH_TOKEN, NO_ACCESS_TOKEN})


def _renewable(arrival: Arrival, alias_of: GrantId | None) -> tuple[str | None, bool]:
    """(a code for why not, whether)."""
    if alias_of is not None:
        return "alias", True
    if arrival.not_renewable is not None or not arrival.spends:
        return NOT_RENEWABLE, False
    if arrival.spends == "rt" and arrival.refresh_token is None:
        return NO_REFRESH_TOKEN, False
    if arrival.spends == "at" and arrival.access_token is None:
        return NO_ACCESS_TOKEN, False
    return None, True


def _quarantine(row: Mapping[str, Any]) -> str:
    """Why it is quarantined: what was said first stays, however often it is mirrored."""
    told = row["reason"] if row["state"] == GrantState.QUARANTINED else None
    return told or Why.SHARED_SPENDER.value


def _due(grant: GrantId, arrival: Arrival, now: datetime) -> datetime | None:
    """Without evidence of issue or end: now, because the token may be as good as expired. Without
    an access token too: there is nothing to hand out before."""
    if arrival.access_token is None:
        return now
    ends_later = arrival.expires_at is not None and arrival.expires_at > now
    if arrival.issued_at is None and arrival.expiry is not ExpiryKind.NEVER and not ends_later:
        return now
    return renewal_time(
        issued_at=arrival.issued_at or now,
        expiry=arrival.expiry,
        expires_at=arrival.expires_at,
        lifetimes=arrival.lifetimes,
        spread=spread_of(GrantId(grant)),
    )


def _sealed(
    row: Mapping[str, Any], arrival: Arrival, generation: int, kind: str, vault: Vault
) -> bytes | None:
    secret: Secret | None = arrival.access_token if kind == "at" else arrival.refresh_token
    if secret is None:
        return None
    return vault.seal(
        secret,
        tenant=arrival.key.tenant,
        grant=GrantId(row["id"]),
        generation=generation,
        kind=kind,
        key=row["access_key"] if kind == "at" else row["refresh_key"],
    )


def unclaimed(row: Any) -> dict[str, Any]:
    """Whoever still holds a claim spent the old family: his answer becomes a candidate, and until
    it may be taken that none comes that family is not sent again (I4)."""
    return _held_back(row) | {
        "fence": row.fence + 1,
        "attempt": None,
        "claim_node": None,
        "claim_process": None,
        "claim_fp": None,
        "claimed_at": None,
        "lease_until": None,
        "uncertain": False,
    }


def _held_back(row: Any) -> dict[str, Any]:
    if row.attempt is None or row.uncertain or row.claim_fp is None:
        return {}
    ends = [row.claimed_at + HOLD]
    if row.unproven_until is not None and row.retaken_fp == row.claim_fp:
        ends.append(row.unproven_until)
    return {"retaken_fp": row.claim_fp, "unproven_until": max(ends)}


def next_generation(row: Any) -> int:
    generation: int = max(row.last_generation, row.generation) + 1
    return generation


def theirs_of(arrival: Arrival, prints: Fingerprints, now: datetime) -> Theirs:
    return Theirs(
        rt_fp=prints.rt,
        at_fp=prints.at,
        scope=words(arrival.scope),
        login=arrival.login,
        expired=_surely_expired(arrival, now),
        consented_at=arrival.issued_at,
        last_login=arrival.last_login,
    )


def _surely_expired(arrival: Arrival, now: datetime) -> bool:
    """Without evidence of the issue an end was only assumed."""
    if arrival.issued_at is None or arrival.expires_at is None:
        return False
    return arrival.expires_at <= now


def words(scope: str | None) -> frozenset[str] | None:
    return None if scope is None else frozenset(scope.split())


def key_of(row: Any) -> GrantKey:
    return GrantKey(
        tenant=row.tenant,
        connection=row.connection,
        identity_user_id=row.identity_user_id,
        part=GrantPart(row.part),
    )


def order_of(key: GrantKey) -> tuple[str, str, str]:
    return key.connection, key.identity_user_id, key.part.value
