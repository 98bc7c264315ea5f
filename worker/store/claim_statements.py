"""The statements of a claim, in both databases.

Built once: building a statement costs as much as SQLite takes to answer it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, bindparam, case, func, or_, select, update

from worker.domain.grant import GrantState
from worker.store.claim_rows import CLAIM, UNFINISHED
from worker.store.tables import GrantRow

_OPEN = (GrantState.ACTIVE.value, GrantState.SUSPECT.value)


def _greater(one: Any, other: Any) -> Any:
    return case((one > other, one), else_=other)


_PROVIDER: Any = bindparam("provider")
_TENANT: Any = bindparam("tenant")
_NOW: Any = bindparam("now")

DUE_ROWS = (
    select(GrantRow.id)
    .where(
        GrantRow.provider == _PROVIDER,
        GrantRow.tenant == _TENANT,
        GrantRow.due_at >= bindparam("since"),
        GrantRow.due_at <= _NOW,
        GrantRow.attempt.is_(None),
        GrantRow.state.in_(_OPEN),
    )
    .order_by(GrantRow.due_at)
    .limit(bindparam("each"))
)


_HOLD_ONE = (
    update(GrantRow)
    .where(GrantRow.id == bindparam("of"))
    .values(
        {
            GrantRow.fence: GrantRow.fence + 1,
            GrantRow.attempt: bindparam("as"),
            GrantRow.claim_node: bindparam("by_node"),
            GrantRow.claim_process: bindparam("by_process"),
            GrantRow.claim_fp: GrantRow.rt_fp,
            GrantRow.claimed_at: bindparam("from"),
            GrantRow.lease_until: bindparam("until"),
            GrantRow.uncertain: False,
            GrantRow.last_generation: 1 + _greater(GrantRow.last_generation, GrantRow.generation),
        }
    )
)
_RETAKEN = GrantRow.retaken_fp == GrantRow.rt_fp
CLAIM_ONE = _HOLD_ONE.values(
    {GrantRow.first_claimed_at: case((_RETAKEN, GrantRow.first_claimed_at), else_=None)}
)
TAKE_ONE = _HOLD_ONE.values(
    {
        GrantRow.first_claimed_at: func.coalesce(GrantRow.first_claimed_at, GrantRow.claimed_at),
        GrantRow.unproven_until: bindparam("unproven"),
        GrantRow.retaken_fp: GrantRow.rt_fp,
    }
).where(
    GrantRow.attempt == bindparam("seen"),
    GrantRow.fence == bindparam("seen_fence"),
    GrantRow.state.in_(_OPEN),
)
CLAIMED = select(*CLAIM).where(GrantRow.id.in_(bindparam("ids", expanding=True)))


def _unfinished(*order: Any) -> Any:
    """Among so many due rows from one end: those claimed go first, so an attempt is never far from
    the oldest; and one that was put off lies at the latest, when its time has come."""
    seen = (
        select(*UNFINISHED, GrantRow.state)
        .where(
            GrantRow.provider == _PROVIDER,
            GrantRow.tenant == _TENANT,
            GrantRow.due_at >= bindparam("since"),
            GrantRow.due_at <= _NOW,
        )
        .order_by(*order)
        .limit(bindparam("window"))
        .subquery()
    )
    dead = seen.c.claim_process.in_(bindparam("dead", expanding=True))
    mine = and_(seen.c.claim_node == bindparam("node"), dead)
    return select(seen).where(
        seen.c.attempt.is_not(None),
        seen.c.state.in_(_OPEN),
        or_(seen.c.lease_until <= _NOW, seen.c.uncertain, mine),
    )


UNFINISHED_OLDEST = _unfinished(GrantRow.due_at)
UNFINISHED_LATEST = _unfinished(GrantRow.due_at.desc())


POSTGRES_LOST = """
SELECT g.id, r.fence
FROM unnest(%(ids)s::uuid[], %(fences)s::bigint[]) AS r(id, fence) JOIN grants g ON g.id = r.id
WHERE g.fence > r.fence
"""

# MATERIALIZED keeps the planner from joining the locked rows anew; SKIP LOCKED lets claimers
# pass each other. `now()` is stable, so it bounds the index scan. A row that is locked stays where
# it is, so it is found again by its place: by its id each would cost a walk through an index of
# which, at ten million grants, no page is at hand. One that was rewritten between the statement's
# beginning and its lock has moved, and is left for a later look.
POSTGRES_CLAIM = f"""
WITH due AS MATERIALIZED (
    SELECT d.id, d.at
    FROM unnest(%(tenants)s::text[], %(since)s::timestamptz[]) AS t(tenant, since),
    LATERAL (
        SELECT g.id, g.ctid AS at FROM grants g
        WHERE g.provider = %(provider)s AND g.tenant = t.tenant
          AND g.due_at >= t.since AND g.due_at <= now()
          AND g.attempt IS NULL AND g.state IN ('active', 'suspect')
        ORDER BY g.due_at LIMIT %(each)s
        FOR UPDATE SKIP LOCKED
    ) AS d
    WHERE %(lineage)s::bigint IS NULL OR LINEAGE = %(lineage)s::bigint
), named AS (
    SELECT id, at, (%(attempts)s::uuid[])[row_number() OVER ()] AS attempt FROM due
)
UPDATE grants SET
    fence = grants.fence + 1,
    attempt = named.attempt,
    claim_node = %(node)s,
    claim_process = %(process)s,
    claim_fp = grants.rt_fp,
    claimed_at = now(),
    first_claimed_at = CASE
        WHEN grants.retaken_fp = grants.rt_fp THEN grants.first_claimed_at
    END,
    lease_until = now() + %(lease)s,
    uncertain = false,
    last_generation = greatest(grants.last_generation, grants.generation) + 1
FROM named
WHERE grants.ctid = named.at AND grants.id = named.id AND grants.attempt IS NULL
RETURNING {", ".join(f"grants.{column.key}" for column in CLAIM)}
"""  # noqa: S608 - column names of our own
