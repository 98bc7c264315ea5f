"""What an attempt brought becomes a grant's current generation: the same change, per database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, update

from worker.domain.attempt import Brought
from worker.domain.grant import GrantId, GrantState
from worker.store import arrays, seen
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
        GrantRow.retaken_fp: one.parent_fp if one.echoed else None,  # its use has an answer
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


def move_group(db: Connection, fit: Sequence[Brought], now: datetime) -> set[tuple[GrantId, int]]:
    """The same for many on PostgreSQL, in one statement; what came in a moved row is remembered
    as seen (M2). Returns: grant and fence of the rows moved."""
    rows = db.exec_driver_sql(_POSTGRES_MOVE, {"now": now, **_columns_of(fit)})
    return {(GrantId(grant), fence) for grant, fence in rows.all()}


def _columns_of(fit: Sequence[Brought]) -> dict[str, arrays.Packed]:
    return {
        "id": arrays.uuids(b.grant for b in fit),
        "fence": arrays.integers(b.fence for b in fit),
        "attempt": arrays.uuids(b.attempt for b in fit),
        "parent": arrays.blobs(b.parent_fp for b in fit),
        "echoed": arrays.flags(b.echoed for b in fit),
        "generation": arrays.integers(b.generation for b in fit),
        "family": arrays.integers(b.family for b in fit),
        "at": arrays.blobs(b.access_token for b in fit),
        "rt": arrays.blobs(b.refresh_token for b in fit),
        "at_fp": arrays.blobs(b.at_fp for b in fit),
        "rt_fp": arrays.blobs(b.rt_fp for b in fit),
        "token_type": arrays.texts(b.token_type for b in fit),
        "scope": arrays.texts(b.scope for b in fit),
        "issued_at": arrays.instants(b.issued_at for b in fit),
        "expiry": arrays.texts(b.expiry for b in fit),
        "expires_at": arrays.instants(b.expires_at for b in fit),
        "refresh_expires_at": arrays.instants(b.refresh_expires_at for b in fit),
        "due_at": arrays.instants(b.due_at for b in fit),
        "not_before": arrays.instants(b.not_before for b in fit),
        "rotated": arrays.flags(b.rotated for b in fit),
    }


_POSTGRES_MOVE = f"""
WITH moved AS (
    UPDATE grants g SET
        state = CASE WHEN r.echoed THEN 'suspect' ELSE 'active' END,
        reason = CASE WHEN r.echoed THEN 'same_refresh_token' END,
        generation = r.generation, family = r.family,
        access_token = r.at, refresh_token = r.rt, at_fp = r.at_fp, rt_fp = r.rt_fp,
        token_type = r.token_type, scope = coalesce(r.scope, g.scope), issued_at = r.issued_at,
        expiry = r.expiry, expires_at = r.expires_at,
        refresh_expires_at = coalesce(r.refresh_expires_at, g.refresh_expires_at),
        renewed_at = %(now)s, due_at = r.due_at, not_before = r.not_before,
        rotated_before = g.rotated_before OR r.rotated, failures = 0, last_error = NULL,
        suspect_since = NULL, attempt = NULL, claim_node = NULL, claim_process = NULL,
        claim_fp = NULL, claimed_at = NULL, lease_until = NULL, uncertain = false,
        retaken_fp = CASE WHEN r.echoed THEN g.rt_fp END
    FROM unnest(
        %(id)s::uuid[], %(fence)s::bigint[], %(attempt)s::uuid[], %(parent)s::bytea[],
        %(echoed)s::boolean[], %(generation)s::bigint[], %(family)s::bigint[],
        %(at)s::bytea[], %(rt)s::bytea[], %(at_fp)s::bytea[], %(rt_fp)s::bytea[],
        %(token_type)s::text[], %(scope)s::text[], %(issued_at)s::timestamptz[],
        %(expiry)s::text[], %(expires_at)s::timestamptz[], %(refresh_expires_at)s::timestamptz[],
        %(due_at)s::timestamptz[], %(not_before)s::timestamptz[], %(rotated)s::boolean[]
    ) AS r(
        id, fence, attempt, parent, echoed, generation, family, at, rt, at_fp, rt_fp,
        token_type, scope, issued_at, expiry, expires_at, refresh_expires_at, due_at, not_before,
        rotated
    )
    WHERE g.id = r.id AND g.fence = r.fence AND g.attempt = r.attempt AND g.tombstoned_at IS NULL
      AND (r.parent IS NULL OR g.rt_fp = r.parent)
    RETURNING g.id, g.fence, g.rt_fp, r.rotated
), remembered AS (
    INSERT INTO seen_refresh_tokens (grant_id, fp, seen_at)
    SELECT m.id, {seen.POSTGRES_FP}, %(now)s FROM moved m
    WHERE m.rotated AND {seen.POSTGRES_NEW}
)
SELECT id, fence FROM moved
"""  # noqa: S608 - a length of our own
