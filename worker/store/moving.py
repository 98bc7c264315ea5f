"""What an attempt brought becomes a grant's current generation: the same change, per database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, update

from worker.domain.attempt import Brought
from worker.domain.grant import GrantState
from worker.store.claim_rows import FREE
from worker.store.tables import GrantRow


def move_one(
    db: Connection, one: Brought, now: datetime, changes: Mapping[Any, Any] | None = None
) -> bool:
    """Whether its row was moved: the attempt still held it, and nothing else came in between.

    Args:
        changes: values that the row gets instead of what `one` brought.
    """
    values = {**_current_values(one, now), **(changes or {})}
    held = {"of_grant": one.grant, "of_fence": one.fence, "of_attempt": one.attempt}
    if one.parent_fp is not None:
        held["of_parent"] = one.parent_fp
    moved = _statement(tuple(values), one.parent_fp is not None)
    return db.execute(moved, {_new(at): v for at, v in values.items()} | held).rowcount == 1


@cache
def _statement(columns: tuple[Any, ...], parent: bool) -> Any:
    """One per set of columns: building it costs more than SQLite takes to run it."""
    held = update(GrantRow).where(
        GrantRow.id == bindparam("of_grant"),
        GrantRow.fence == bindparam("of_fence"),
        GrantRow.attempt == bindparam("of_attempt"),
        GrantRow.tombstoned_at.is_(None),
    )
    if parent:
        held = held.where(GrantRow.rt_fp == bindparam("of_parent"))
    return held.values({column: bindparam(_new(column)) for column in columns})


def _new(column: Any) -> str:
    return f"new_{column.key}"


def _current_values(one: Brought, now: datetime) -> dict[Any, Any]:
    values: dict[Any, Any] = FREE | {
        GrantRow.state: _state(one),
        GrantRow.reason: "same_refresh_token" if one.echoed else None,
        GrantRow.generation: one.generation,
        GrantRow.family: one.family,
        GrantRow.access_token: one.access_token,
        GrantRow.refresh_token: one.refresh_token,
        GrantRow.at_fp: one.at_fp,
        GrantRow.rt_fp: one.rt_fp,
        GrantRow.token_type: one.token_type,
        GrantRow.issued_at: one.issued_at,
        GrantRow.expiry: one.expiry.value,
        GrantRow.expires_at: one.expires_at,
        GrantRow.renewed_at: now,
        GrantRow.due_at: one.due_at,
        GrantRow.not_before: one.not_before,
        GrantRow.failures: 0,
        GrantRow.last_error: None,
        GrantRow.suspect_since: None,
    }
    if one.scope is not None:
        values[GrantRow.scope] = one.scope
    if one.refresh_expires_at is not None:
        values[GrantRow.refresh_expires_at] = one.refresh_expires_at
    if one.rotated:
        values[GrantRow.rotated_before] = True
    return values


def _state(one: Brought) -> str:
    return (GrantState.SUSPECT if one.echoed else GrantState.ACTIVE).value


def columns_of(fit: Sequence[Brought], now: datetime) -> dict[str, Any]:
    """Column-wise, for one statement; `b""` stands for NULL in binary arrays."""
    return {
        "now": now,
        "id": [b.grant for b in fit],
        "fence": [b.fence for b in fit],
        "attempt": [b.attempt for b in fit],
        "parent": [b.parent_fp or b"" for b in fit],
        "state": [_state(b) for b in fit],
        "reason": ["same_refresh_token" if b.echoed else None for b in fit],
        "generation": [b.generation for b in fit],
        "family": [b.family for b in fit],
        "at": [b.access_token or b"" for b in fit],
        "rt": [b.refresh_token or b"" for b in fit],
        "at_fp": [b.at_fp or b"" for b in fit],
        "rt_fp": [b.rt_fp or b"" for b in fit],
        "token_type": [b.token_type for b in fit],
        "scope": [b.scope for b in fit],
        "issued_at": [b.issued_at for b in fit],
        "expiry": [b.expiry.value for b in fit],
        "expires_at": [b.expires_at for b in fit],
        "refresh_expires_at": [b.refresh_expires_at for b in fit],
        "due_at": [b.due_at for b in fit],
        "not_before": [b.not_before for b in fit],
        "rotated": [b.rotated for b in fit],
    }


# Binary parameters (%b) for ciphertexts: as text arrays they are measured four times dearer.
POSTGRES_MOVE = """
UPDATE grants g SET
    state = r.state, reason = r.reason, generation = r.generation, family = r.family,
    access_token = nullif(r.at, ''::bytea), refresh_token = nullif(r.rt, ''::bytea),
    at_fp = nullif(r.at_fp, ''::bytea), rt_fp = nullif(r.rt_fp, ''::bytea),
    token_type = r.token_type, scope = coalesce(r.scope, g.scope), issued_at = r.issued_at,
    expiry = r.expiry, expires_at = r.expires_at,
    refresh_expires_at = coalesce(r.refresh_expires_at, g.refresh_expires_at),
    renewed_at = %(now)s, due_at = r.due_at, not_before = r.not_before,
    rotated_before = g.rotated_before OR r.rotated, failures = 0, last_error = NULL,
    suspect_since = NULL, attempt = NULL, claim_node = NULL, claim_process = NULL,
    claim_fp = NULL, claimed_at = NULL, lease_until = NULL, uncertain = false
FROM unnest(
    %(id)s::uuid[], %(fence)s::bigint[], %(attempt)s::uuid[], %(parent)b::bytea[],
    %(state)s::text[], %(reason)s::text[], %(generation)s::bigint[], %(family)s::bigint[],
    %(at)b::bytea[], %(rt)b::bytea[], %(at_fp)b::bytea[], %(rt_fp)b::bytea[],
    %(token_type)s::text[], %(scope)s::text[], %(issued_at)s::timestamptz[],
    %(expiry)s::text[], %(expires_at)s::timestamptz[], %(refresh_expires_at)s::timestamptz[],
    %(due_at)s::timestamptz[], %(not_before)s::timestamptz[], %(rotated)s::boolean[]
) AS r(
    id, fence, attempt, parent, state, reason, generation, family, at, rt, at_fp, rt_fp,
    token_type, scope, issued_at, expiry, expires_at, refresh_expires_at, due_at, not_before,
    rotated
)
WHERE g.id = r.id AND g.fence = r.fence AND g.attempt = r.attempt AND g.tombstoned_at IS NULL
  AND (r.parent = ''::bytea OR g.rt_fp = r.parent)
RETURNING g.id, g.fence
"""
