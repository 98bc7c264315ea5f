"""Finding due grants, and the leased right of one attempt to spend one refresh token (I1, I5).

A claim commits before anything is sent. It changes no indexed column, so on PostgreSQL it is a
heap-only update. Lease ends go by the store's clock: PostgreSQL's own, or on SQLite, where all
processes share a host, the clock handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, and_, case, func, or_, select, tuple_, update

from worker.domain.attempt import Unfinished
from worker.domain.errors import TransientError
from worker.domain.grant import (
    Claim,
    GrantId,
    GrantState,
)
from worker.domain.ports import Clock
from worker.store import candidates
from worker.store.claim_rows import CLAIM, FREE, UNFINISHED, claim_of, unfinished_of
from worker.store.engine import reading, writing
from worker.store.tables import GrantRow

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_UNFINISHED_WINDOW = 2000  # oldest due rows looked through: attempts are taken oldest first
_OPEN = (GrantState.ACTIVE.value, GrantState.SUSPECT.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWork:
    """One tenant has grants due at one provider."""

    provider: str
    tenant: str
    since: datetime  # the longest overdue


class ClaimsRepository:
    """Claims of one process. Raises everywhere: TransientError, the store is away."""

    def __init__(self, engine: Engine, *, node: str, process: str, clock: Clock) -> None:
        self._engine = engine
        self._node = node
        self._process = process
        self._clock = clock
        self._postgres = engine.dialect.name == "postgresql"

    def due(self) -> list[DueWork]:
        """Every provider and tenant with due grants. One index probe each, however many rows."""
        found: list[DueWork] = []
        with reading(self._engine) as connection:
            now = self._now(connection)
            after = ("", "")
            while row := connection.execute(_next_pair(after)).one_or_none():
                after = (row.provider, row.tenant)
                if row.due_at <= now:
                    found.append(DueWork(provider=after[0], tenant=after[1], since=row.due_at))
        return found

    def claim_due(
        self,
        provider: str,
        tenants: Sequence[str],
        *,
        each: int,
        lease: float,
        since: Mapping[str, datetime],
    ) -> list[Claim]:
        """Lease up to `each` of the longest overdue grants of each tenant, for `lease` seconds.

        Args:
            since: per tenant, below which due time nothing is looked for: an old snapshot keeps
                dead entries at the head of the due index, and stepping over them costs.
        """
        attempts = [uuid4() for _ in range(each * len(tenants))]
        asked = {
            "provider": provider,
            "tenants": list(tenants),
            "since": [since.get(tenant, _LONG_AGO) for tenant in tenants],
            "each": each,
            "attempts": attempts,
            "node": self._node,
            "process": self._process,
            "lease": timedelta(seconds=lease),
        }
        try:
            with writing(self._engine) as connection:
                rows = self._claim(connection, asked)
        except TransientError:
            rows = self._read_back(asked)  # C2: no proof of the claim, no sending
        return sorted(map(claim_of, rows), key=_by_expiry)

    def unfinished(
        self, provider: str, tenants: Iterable[str], dead: Iterable[str]
    ) -> list[Unfinished]:
        """Attempts whose lease has ended, or whose process on this node is known to be `dead`."""
        names = list(dead)
        with reading(self._engine) as connection:
            now = self._now(connection)
            found: list[Unfinished] = []
            for tenant in tenants:
                asked = _unfinished(provider, tenant, now, self._node, names)
                found += [unfinished_of(row, now) for row in connection.execute(asked)]
            return found

    def take_over(self, chosen: Sequence[Unfinished], *, lease: float) -> list[Claim]:
        """Replace each of `chosen` attempts by one of ours, if it is still the one seen.

        Where the successor of the token has come meanwhile, from an attempt before that one, that
        is made current instead: sending its parent again would cost the family (I4).
        """
        taken: list[Claim] = []
        with writing(self._engine) as connection:
            now = self._now(connection)
            for unfinished in chosen:
                attempt = uuid4()
                changed = connection.execute(
                    update(GrantRow)
                    .where(
                        GrantRow.id == unfinished.grant,
                        GrantRow.attempt == unfinished.earlier.attempt,
                        GrantRow.fence == unfinished.fence,
                        GrantRow.state.in_(_OPEN),
                    )
                    .values(self._claimed(attempt, now, lease))
                )
                if changed.rowcount:
                    row = connection.execute(
                        select(*CLAIM).where(GrantRow.id == unfinished.grant)
                    ).one()
                    taken.append(claim_of(row, earlier=unfinished.earlier))
            followed = self._let_successors_rise(connection, [one.grant for one in taken], now)
        return [one for one in taken if one.grant not in followed]

    def extend(self, claims: Sequence[Claim], *, lease: float) -> set[GrantId]:
        """Let the leases of those claims that still hold end `lease` seconds from now.

        A claim whose token has a successor here by now holds no more: nothing is to be sent.
        """
        with writing(self._engine) as connection:
            now = self._now(connection)
            held = and_(
                tuple_(GrantRow.id, GrantRow.fence).in_([(c.grant, c.fence) for c in claims]),
                GrantRow.attempt.in_([c.attempt for c in claims]),
            )
            held = and_(held, ~candidates.successor_waits())
            until = now + timedelta(seconds=lease)
            rows = connection.execute(
                update(GrantRow).where(held).values(lease_until=until).returning(GrantRow.id)
            )
            return {GrantId(row.id) for row in rows}

    def lost(self, claims: Sequence[Claim]) -> set[tuple[GrantId, int]]:
        """Grant and fence of those whose fence has risen since: deleted, or taken over (I14)."""
        asked = select(GrantRow.id, GrantRow.fence).where(
            GrantRow.id.in_([claim.grant for claim in claims])
        )
        with reading(self._engine) as connection:
            fences = {row.id: row.fence for row in connection.execute(asked)}
        held = {(claim.grant, claim.fence) for claim in claims}
        return {(grant, fence) for grant, fence in held if fences.get(grant, fence) > fence}

    def reread(self, grant: GrantId) -> None:
        """Auth0's copy of a suspect grant has been looked at, under the pull fence."""
        with writing(self._engine) as connection:
            connection.execute(
                update(GrantRow)
                .where(GrantRow.id == grant, GrantRow.state == GrantState.SUSPECT.value)
                .values(pulled_at=self._now(connection))
            )

    def _let_successors_rise(
        self, connection: Connection, grants: Sequence[GrantId], now: datetime
    ) -> set[GrantId]:
        followed = (
            update(GrantRow)
            .where(GrantRow.id.in_(grants), candidates.successor_waits())
            .values(FREE)
            .returning(GrantRow.id)
        )
        found = {GrantId(row.id) for row in connection.execute(followed)}
        if found:
            candidates.rise(connection, list(found), now)
        return found

    def _now(self, connection: Connection) -> datetime:
        if not self._postgres:
            return self._clock.now()
        now: datetime = connection.execute(select(func.now())).scalar_one()
        return now.astimezone(UTC)

    def _claim(self, connection: Connection, asked: Mapping[str, Any]) -> Sequence[Any]:
        if self._postgres:
            return connection.exec_driver_sql(_POSTGRES_CLAIM, dict(asked)).all()
        return self._claim_on_sqlite(connection, asked)

    def _claim_on_sqlite(self, connection: Connection, asked: Mapping[str, Any]) -> Sequence[Any]:
        """The write lock is held from the start, so what was found due is still free."""
        now = self._now(connection)
        ids: list[UUID] = []
        for tenant, since in zip(asked["tenants"], asked["since"], strict=True):
            ids += connection.execute(
                _due_rows(asked["provider"], tenant, since, now).limit(asked["each"])
            ).scalars()
        lease = asked["lease"].total_seconds()
        for grant, attempt in zip(ids, asked["attempts"], strict=False):
            connection.execute(
                update(GrantRow)
                .where(GrantRow.id == grant)
                .values(self._claimed(attempt, now, lease))
            )
        return connection.execute(select(*CLAIM).where(GrantRow.id.in_(ids))).all()

    def _claimed(self, attempt: UUID, now: datetime, lease: float) -> dict[Any, Any]:
        return {
            GrantRow.fence: GrantRow.fence + 1,
            GrantRow.attempt: attempt,
            GrantRow.claim_node: self._node,
            GrantRow.claim_process: self._process,
            GrantRow.claim_fp: GrantRow.rt_fp,
            GrantRow.claimed_at: now,
            GrantRow.lease_until: now + timedelta(seconds=lease),
            GrantRow.uncertain: False,
            GrantRow.last_generation: 1 + _greater(GrantRow.last_generation, GrantRow.generation),
        }

    def _read_back(self, asked: Mapping[str, Any]) -> Sequence[Any]:
        """What of a claim with an unknown fate did commit: found by its attempt ids."""
        with suppress(TransientError), reading(self._engine) as connection:
            now = self._now(connection)
            mine = select(*CLAIM).where(
                GrantRow.provider == asked["provider"],
                GrantRow.tenant.in_(asked["tenants"]),
                GrantRow.due_at <= now,
                GrantRow.attempt.in_(asked["attempts"]),
            )
            return connection.execute(mine).all()
        raise TransientError("store: a claim's fate is unknown", code="store_away")


def _next_pair(after: tuple[str, str]) -> Any:
    return (
        select(GrantRow.provider, GrantRow.tenant, GrantRow.due_at)
        .where(GrantRow.due_at.is_not(None), tuple_(GrantRow.provider, GrantRow.tenant) > after)
        .order_by(GrantRow.provider, GrantRow.tenant, GrantRow.due_at)
        .limit(1)
    )


def _due_rows(provider: str, tenant: str, since: datetime, now: datetime) -> Any:
    return (
        select(GrantRow.id)
        .where(
            GrantRow.provider == provider,
            GrantRow.tenant == tenant,
            GrantRow.due_at >= since,
            GrantRow.due_at <= now,
            GrantRow.attempt.is_(None),
            GrantRow.state.in_(_OPEN),
        )
        .order_by(GrantRow.due_at)
    )


def _unfinished(provider: str, tenant: str, now: datetime, node: str, dead: Sequence[str]) -> Any:
    """Among the oldest due rows: those claimed go first, so an attempt is never far from there."""
    oldest = (
        select(*UNFINISHED, GrantRow.state)
        .where(GrantRow.provider == provider, GrantRow.tenant == tenant, GrantRow.due_at <= now)
        .order_by(GrantRow.due_at)
        .limit(_UNFINISHED_WINDOW)
        .subquery()
    )
    mine = and_(oldest.c.claim_node == node, oldest.c.claim_process.in_(dead))
    return select(oldest).where(
        oldest.c.attempt.is_not(None),
        oldest.c.state.in_(_OPEN),
        or_(oldest.c.lease_until <= now, oldest.c.uncertain, mine),
    )


def _greater(one: Any, other: Any) -> Any:
    return case((one > other, one), else_=other)


def _by_expiry(claim: Claim) -> datetime:
    return claim.expires_at or claim.due_at or claim.claimed_at


# MATERIALIZED keeps the planner from joining the locked rows anew; SKIP LOCKED lets claimers
# pass each other. `now()` is stable, so it bounds the index scan.
_POSTGRES_CLAIM = f"""
WITH due AS MATERIALIZED (
    SELECT d.id
    FROM unnest(%(tenants)s::text[], %(since)s::timestamptz[]) AS t(tenant, since),
    LATERAL (
        SELECT g.id FROM grants g
        WHERE g.provider = %(provider)s AND g.tenant = t.tenant
          AND g.due_at >= t.since AND g.due_at <= now()
          AND g.attempt IS NULL AND g.state IN ('active', 'suspect')
        ORDER BY g.due_at LIMIT %(each)s
        FOR UPDATE SKIP LOCKED
    ) AS d
), numbered AS (
    SELECT id, row_number() OVER () AS n FROM due
)
UPDATE grants SET
    fence = grants.fence + 1,
    attempt = a.attempt,
    claim_node = %(node)s,
    claim_process = %(process)s,
    claim_fp = grants.rt_fp,
    claimed_at = now(),
    lease_until = now() + %(lease)s,
    uncertain = false,
    last_generation = greatest(grants.last_generation, grants.generation) + 1
FROM numbered JOIN unnest(%(attempts)s::uuid[]) WITH ORDINALITY AS a(attempt, n) USING (n)
WHERE grants.id = numbered.id
RETURNING {", ".join(f"grants.{column.key}" for column in CLAIM)}
"""  # noqa: S608 - column names of our own
