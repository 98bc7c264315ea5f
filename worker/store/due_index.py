"""Which providers and tenants have due grants, asked of the due index alone.

A snapshot that somebody keeps open (a dump, a forgotten session) leaves whatever was renewed since
at the head of the index, and stepping over that costs a look dearer with every renewal: measured,
28 ms after 16,000. So a look from the very beginning may take a 25th of our time, and those in
between begin where the last one found something. Without an old snapshot each is a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, bindparam, select, tuple_

from worker.domain.ports import Clock
from worker.store.engine import reading
from worker.store.tables import GrantRow

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_SHARE = 25  # times as long as a whole look took, before the next
_SKEW = timedelta(seconds=2)  # of clocks, and of commits on their way


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWork:
    """One tenant has grants due at one provider."""

    provider: str
    tenant: str
    since: datetime  # the longest overdue


class DueIndex:
    """Looks; remembers where it found something. Raises: TransientError, the store is away.

    Args:
        check: asked first, on the same connection; raises where the store is not to be believed.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        check: Callable[[Connection], object] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._check = check
        self._clock = clock
        self._postgres = engine.dialect.name == "postgresql"
        self._whole_at = float("-inf")
        self._looked_at = LONG_AGO  # by the store's clock
        self._heads: Mapping[tuple[str, str], datetime] = {}  # the longest overdue, as then seen

    def work(self) -> list[DueWork]:
        """Two index probes for each provider and tenant, in one statement, however many rows."""
        began = self._clock.monotonic()
        whole = began >= self._whole_at
        with reading(self._engine) as connection:
            self._check(connection)
            if not self._postgres:
                return _due_on_sqlite(connection, self._clock.now())
            found = self._look(connection, whole)
        if whole:
            self._whole_at = began + _SHARE * (self._clock.monotonic() - began)
        return found

    def _look(self, connection: Connection, whole: bool) -> list[DueWork]:
        """What becomes due behind our back does so at about the time of now, hence the floor."""
        heads = {} if whole else self._heads
        asked = {
            "providers": [provider for provider, _ in heads],
            "tenants": [tenant for _, tenant in heads],
            "heads": [due_at - _SKEW for due_at in heads.values()],
            "floor": LONG_AGO if whole else self._looked_at - _SKEW,
        }
        rows = connection.exec_driver_sql(_POSTGRES_DUE, asked).all()
        found = [
            DueWork(provider=row.provider, tenant=row.tenant, since=row.due_at.astimezone(UTC))
            for row in rows
            if row.provider is not None
        ]
        self._looked_at = rows[0].at.astimezone(UTC)
        self._heads = {(work.provider, work.tenant): work.since for work in found}
        return found


def _due_on_sqlite(connection: Connection, now: datetime) -> list[DueWork]:
    found: list[DueWork] = []
    after = {"provider": "", "tenant": ""}
    while row := connection.execute(_NEXT_PAIR, after).one_or_none():
        after = {"provider": row.provider, "tenant": row.tenant}
        if row.due_at <= now:
            found.append(DueWork(**after, since=row.due_at))
    return found


_NEXT_PAIR = (
    select(GrantRow.provider, GrantRow.tenant, GrantRow.due_at)
    .where(
        GrantRow.due_at.is_not(None),
        tuple_(GrantRow.provider, GrantRow.tenant)
        > tuple_(bindparam("provider"), bindparam("tenant")),
    )
    .order_by(GrantRow.provider, GrantRow.tenant, GrantRow.due_at)
    .limit(1)
)
# Hops from pair to pair by their latest due time, where nothing dead lies, and then asks for each
# pair's earliest. The first line always comes, for the time.
_POSTGRES_DUE = """
WITH RECURSIVE pairs AS (
    (SELECT provider, tenant FROM grants WHERE due_at IS NOT NULL
     ORDER BY provider DESC, tenant DESC, due_at DESC LIMIT 1)
    UNION ALL
    SELECT next.provider, next.tenant FROM pairs, LATERAL (
        SELECT provider, tenant FROM grants
        WHERE due_at IS NOT NULL AND (provider, tenant) < (pairs.provider, pairs.tenant)
        ORDER BY provider DESC, tenant DESC, due_at DESC LIMIT 1
    ) AS next
), known AS MATERIALIZED (
    SELECT * FROM unnest(%(providers)s::text[], %(tenants)s::text[], %(heads)s::timestamptz[])
        AS k(provider, tenant, head)
), due AS (
    SELECT pairs.provider, pairs.tenant, first.due_at
    FROM pairs LEFT JOIN known USING (provider, tenant), LATERAL (
        SELECT g.due_at FROM grants g
        WHERE g.provider = pairs.provider AND g.tenant = pairs.tenant
          AND g.due_at >= coalesce(known.head, %(floor)s) AND g.due_at <= now()
        ORDER BY g.due_at LIMIT 1
    ) AS first
)
SELECT now() AS at, due.* FROM (VALUES (1)) AS always(one) LEFT JOIN due ON true
ORDER BY provider, tenant
"""
