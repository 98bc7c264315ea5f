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

from sqlalchemy import Connection, Engine, and_, select, tuple_, update

from worker.domain.attempt import Unfinished
from worker.domain.errors import TransientError
from worker.domain.grant import Claim, GrantId, GrantState
from worker.domain.ports import Clock
from worker.domain.rotation import unproven_until
from worker.store import arrays, candidates
from worker.store.claim_rows import CLAIM, FREE, claim_of, unfinished_of
from worker.store.claim_statements import (
    CLAIM_ONE,
    CLAIMED,
    DUE_ROWS,
    POSTGRES_CLAIM,
    POSTGRES_LOST,
    TAKE_ONE,
    UNFINISHED_LATEST,
    UNFINISHED_OLDEST,
)
from worker.store.due_index import LONG_AGO, DueIndex, DueWork
from worker.store.engine import BINARY, at_once, reading, writing
from worker.store.lineage import Lineage, lineage_of, postgres_lineage
from worker.store.tables import GrantRow

# Where the longest overdue has waited for so long, more may be due than is looked through from one
# end; and an attempt whose grace is running cannot wait for its turn among all of them.
_BACKLOG = timedelta(seconds=30)
_WINDOW = 2000  # due rows looked through, from either end


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
        asked["window"] = _WINDOW
        with reading(self._engine) as connection:
            now = self._now(connection)
            found: list[Unfinished] = []
            for tenant in tenants:
                asked |= {"tenant": tenant, "now": now, "since": begin.get(tenant, LONG_AGO)}
                rows = list(connection.execute(UNFINISHED_OLDEST, asked))
                if now - asked["since"] > _BACKLOG:
                    rows += connection.execute(UNFINISHED_LATEST, asked)
                found += [unfinished_of(row, now) for row in {row.id: row for row in rows}.values()]
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
                if connection.execute(TAKE_ONE, mine | seen).rowcount:
                    row = connection.execute(CLAIMED, {"ids": [unfinished.grant]}).one()
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
                rows = connection.exec_driver_sql(POSTGRES_LOST, columns)
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
            claim = POSTGRES_CLAIM.replace("LINEAGE", postgres_lineage(connection))
            return connection.exec_driver_sql(claim, {**asked, **columns}, BINARY).all()
        return self._claim_on_sqlite(connection, asked)

    def _claim_on_sqlite(self, connection: Connection, asked: Mapping[str, Any]) -> Sequence[Any]:
        """The write lock is held from the start, so what was found due is still free."""
        now = self._now(connection)
        ids: list[UUID] = []
        for tenant, since in zip(asked["tenants"], asked["since"], strict=True):
            wanted = {"tenant": tenant, "since": since, "now": now}
            wanted |= {name: asked[name] for name in ("provider", "each")}
            ids += connection.execute(DUE_ROWS, wanted).scalars()
        if not ids:
            return ()
        by = self._claimer(now, asked["lease"].total_seconds())
        taken = zip(ids, asked["attempts"], strict=False)
        connection.execute(CLAIM_ONE, [{**by, "of": grant, "as": name} for grant, name in taken])
        return connection.execute(CLAIMED, {"ids": ids}).all()

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


def _by_expiry(claim: Claim) -> datetime:
    return claim.expires_at or claim.due_at or claim.claimed_at
