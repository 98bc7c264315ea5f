"""Finding due grants, and the leased right of one attempt to spend one refresh token (I1, I5).

A claim commits before anything is sent. It changes no indexed column, so on PostgreSQL it is a
heap-only update. Lease ends go by the store's clock: PostgreSQL's own, or on SQLite, where all
processes share a host, the clock handed in.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, and_, bindparam, case, func, or_, select, tuple_, update

from worker.domain.attempt import Unfinished
from worker.domain.errors import TransientError
from worker.domain.grant import (
    Claim,
    GrantId,
    GrantState,
)
from worker.domain.ports import Clock
from worker.domain.rotation import unproven_until
from worker.store import arrays, candidates
from worker.store.claim_rows import CLAIM, FREE, UNFINISHED, claim_of, unfinished_of
from worker.store.due_index import LONG_AGO, DueIndex, DueWork
from worker.store.engine import BINARY, at_once, reading, writing
from worker.store.lineage import Lineage, lineage_of, postgres_lineage
from worker.store.tables import GrantRow

_UNFINISHED_WINDOW = 2000  # oldest due rows looked through: attempts are taken oldest first
_OPEN = (GrantState.ACTIVE.value, GrantState.SUSPECT.value)


class ClaimsRepository:
    """Claims of one process. Raises everywhere: TransientError, the store is away."""

    def __init__(
        self,
        engine: Engine,
        *,
        node: str,
        process: str,
        clock: Clock,
        lineage: Lineage = lineage_of,
    ) -> None:
        self.lineage: int | None = None  # the history that claims are for; None: whichever
        self._lineage = lineage
        self._engine = engine
        self._node = node
        self._process = process
        self._clock = clock
        self._postgres = engine.dialect.name == "postgresql"
        self._due = DueIndex(engine, clock, check=self._now)

    def due(self) -> list[DueWork]:
        """Every provider and tenant with due grants."""
        return self._due.work()

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
        attempts = _names(each * len(tenants))
        asked = {
            "provider": provider,
            "tenants": list(tenants),
            "since": [since.get(tenant, LONG_AGO) for tenant in tenants],
            "each": each,
            "attempts": attempts,
            "node": self._node,
            "process": self._process,
            "lease": timedelta(seconds=lease),
            "lineage": self.lineage,
        }
        try:
            with at_once(self._engine) as connection:
                rows = self._claim(connection, asked)
        except TransientError:
            rows = self._read_back(asked)  # C2: no proof of the claim, no sending
        return sorted(map(claim_of, rows), key=_by_expiry)

    def unfinished(
        self,
        provider: str,
        tenants: Iterable[str],
        dead: Iterable[str],
        since: Mapping[str, datetime] | None = None,
    ) -> list[Unfinished]:
        """Attempts whose lease has ended, or whose process on this node is known to be `dead`.

        Args:
            since: per tenant, the longest overdue as `due` told it: nothing lies before that.
        """
        begin = since or {}
        asked: dict[str, Any] = {"provider": provider, "node": self._node, "dead": list(dead)}
        with reading(self._engine) as connection:
            now = self._now(connection)
            found: list[Unfinished] = []
            for tenant in tenants:
                asked |= {"tenant": tenant, "now": now, "since": begin.get(tenant, LONG_AGO)}
                rows = connection.execute(_UNFINISHED, asked)
                found += [unfinished_of(row, now) for row in rows]
            return found

    def take_over(
        self, chosen: Sequence[Unfinished], *, lease: float, proven: Collection[GrantId] = ()
    ) -> list[Claim]:
        """Replace each of `chosen` attempts by one of ours, if it is still the one seen.

        Args:
            proven: of whose attempts it is proved that they hold nothing.

        Where the successor of the token has come meanwhile, from an attempt before that one, that
        is made current instead: sending its parent again would cost the family (I4).
        """
        taken: list[Claim] = []
        with writing(self._engine) as connection:
            now = self._now(connection)
            for unfinished in chosen:
                attempt = uuid4()
                seen = {"seen": unfinished.earlier.attempt, "seen_fence": unfinished.fence}
                mine = {**self._claimer(now, lease), "of": unfinished.grant, "as": attempt}
                gone = unfinished.grant in proven
                mine["unproven"] = unproven_until(unfinished.earlier, gone=gone)
                if connection.execute(_TAKE_ONE, mine | seen).rowcount:
                    row = connection.execute(_CLAIMED, {"ids": [unfinished.grant]}).one()
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
        held = {(claim.grant, claim.fence) for claim in claims}
        with reading(self._engine) as connection:
            if self._postgres:
                columns = {
                    "ids": arrays.uuids(grant for grant, _ in held),
                    "fences": arrays.integers(fence for _, fence in held),
                }
                rows = connection.exec_driver_sql(_POSTGRES_LOST, columns)
                return {(GrantId(grant), fence) for grant, fence in rows}
            asked = select(GrantRow.id, GrantRow.fence)
            rows = connection.execute(asked.where(GrantRow.id.in_([one for one, _ in held])))
            fences = {row.id: row.fence for row in rows}
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
            candidates.rise_all(connection, list(found), now)
        return found

    def _now(self, connection: Connection) -> datetime:
        """Raises: TransientError, this is another history of the store than the one looked at."""
        if self._postgres:
            asked = f"SELECT now(), {postgres_lineage(connection)}"
            now, lineage = connection.exec_driver_sql(asked).one()
        else:
            now, lineage = self._clock.now(), self._lineage(connection)
        if self.lineage not in (None, lineage):
            raise TransientError("store: another history", code="another_history")
        moment: datetime = now.astimezone(UTC)
        return moment

    def _claim(self, connection: Connection, asked: Mapping[str, Any]) -> Sequence[Any]:
        if self._postgres:
            columns = {
                "tenants": arrays.texts(asked["tenants"]),
                "since": arrays.instants(asked["since"]),
                "attempts": arrays.uuids(asked["attempts"]),
            }
            claim = _POSTGRES_CLAIM.replace("LINEAGE", postgres_lineage(connection))
            return connection.exec_driver_sql(claim, {**asked, **columns}, BINARY).all()
        return self._claim_on_sqlite(connection, asked)

    def _claim_on_sqlite(self, connection: Connection, asked: Mapping[str, Any]) -> Sequence[Any]:
        """The write lock is held from the start, so what was found due is still free."""
        now = self._now(connection)
        ids: list[UUID] = []
        for tenant, since in zip(asked["tenants"], asked["since"], strict=True):
            wanted = {"tenant": tenant, "since": since, "now": now}
            wanted |= {name: asked[name] for name in ("provider", "each")}
            ids += connection.execute(_DUE_ROWS, wanted).scalars()
        if not ids:
            return ()
        by = self._claimer(now, asked["lease"].total_seconds())
        taken = zip(ids, asked["attempts"], strict=False)
        connection.execute(_CLAIM_ONE, [{**by, "of": grant, "as": name} for grant, name in taken])
        return connection.execute(_CLAIMED, {"ids": ids}).all()

    def _claimer(self, now: datetime, lease: float) -> dict[str, Any]:
        return {
            "by_node": self._node,
            "by_process": self._process,
            "from": now,
            "until": now + timedelta(seconds=lease),
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


def _names(count: int) -> list[UUID]:
    """As many as `uuid4` would make in as many calls; one look at the system's chance for all."""
    chance = os.urandom(16 * count)
    return [UUID(bytes=chance[at : at + 16], version=4) for at in range(0, len(chance), 16)]


def _greater(one: Any, other: Any) -> Any:
    return case((one > other, one), else_=other)


_PROVIDER: Any = bindparam("provider")
_TENANT: Any = bindparam("tenant")
_NOW: Any = bindparam("now")

# Built once: building a statement costs as much as SQLite takes to answer it.
_DUE_ROWS = (
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
_CLAIM_ONE = _HOLD_ONE.values(
    {GrantRow.first_claimed_at: case((_RETAKEN, GrantRow.first_claimed_at), else_=None)}
)
_TAKE_ONE = _HOLD_ONE.values(
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
_CLAIMED = select(*CLAIM).where(GrantRow.id.in_(bindparam("ids", expanding=True)))


def _unfinished() -> Any:
    """Among the oldest due rows: those claimed go first, so an attempt is never far from there."""
    oldest = (
        select(*UNFINISHED, GrantRow.state)
        .where(
            GrantRow.provider == _PROVIDER,
            GrantRow.tenant == _TENANT,
            GrantRow.due_at >= bindparam("since"),
            GrantRow.due_at <= _NOW,
        )
        .order_by(GrantRow.due_at)
        .limit(_UNFINISHED_WINDOW)
        .subquery()
    )
    dead = oldest.c.claim_process.in_(bindparam("dead", expanding=True))
    mine = and_(oldest.c.claim_node == bindparam("node"), dead)
    return select(oldest).where(
        oldest.c.attempt.is_not(None),
        oldest.c.state.in_(_OPEN),
        or_(oldest.c.lease_until <= _NOW, oldest.c.uncertain, mine),
    )


_UNFINISHED = _unfinished()


def _by_expiry(claim: Claim) -> datetime:
    return claim.expires_at or claim.due_at or claim.claimed_at


_POSTGRES_LOST = """
SELECT g.id, r.fence
FROM unnest(%(ids)s::uuid[], %(fences)s::bigint[]) AS r(id, fence) JOIN grants g ON g.id = r.id
WHERE g.fence > r.fence
"""

# MATERIALIZED keeps the planner from joining the locked rows anew; SKIP LOCKED lets claimers
# pass each other. `now()` is stable, so it bounds the index scan. A row that is locked stays where
# it is, so it is found again by its place: by its id each would cost a walk through an index of
# which, at ten million grants, no page is at hand. One that was rewritten between the statement's
# beginning and its lock has moved, and is left for a later look.
_POSTGRES_CLAIM = f"""
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
