"""How far each tenant's reconcile has come, so that a round outlives the process that began it.

One column of the `tenants` table: who works on it until when, where to go on, and what was
counted so far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, select

from worker.store.engine import reading, writing
from worker.store.tables import TenantRow
from worker.store.tenant_row import locked, put
from worker.store.types import from_micros, to_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The latest round of a tenant."""

    began_at: datetime
    ended_at: datetime | None  # None: under way
    after: str  # how far it is; see `Reconcile`
    since: datetime | None  # when the one before began; None: it is the first
    counts: Mapping[str, int]


class RoundRepository:
    """Raises everywhere: TransientError, the store is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, tenant: str, *, now: datetime, every: timedelta, anew: bool = False) -> bool:
        """Begin a round, unless one is under way or has begun within `every`.

        Args:
            anew: begin in any case, from the first user on.
        """
        with writing(self._engine) as connection:
            row = locked(connection, tenant).reconcile
            if not anew and row and (not row.get("ended") or _at(row, "began") > now - every):
                return False
            fresh: dict[str, Any] = {
                "began": to_micros(now),
                # what is broken off may not have listed all who logged in since the one before it
                "since": row.get("began" if row.get("ended") else "since"),
                "ended": None,
                "after": "",
                "counts": {},
            }
            put(connection, tenant, reconcile=fresh)
        return True

    def hold(self, tenant: str, holder: str, *, now: datetime, until: datetime) -> str | None:
        """Where to go on; "" at the beginning.

        None: no round is under way, or somebody else is at it.
        """
        with writing(self._engine) as connection:
            row = locked(connection, tenant).reconcile
            if not row or row.get("ended"):
                return None
            if row.get("holder") not in (None, holder) and row.get("until", 0) > to_micros(now):
                return None
            put(connection, tenant, reconcile={**row, "holder": holder, "until": to_micros(until)})
        after: str = row["after"]
        return after

    def save(
        self,
        tenant: str,
        holder: str,
        *,
        after: str | None,
        counts: Mapping[str, int],
        now: datetime,
        until: datetime,
    ) -> bool:
        """It is done up to `after` (None: all of it); `counts` are added. False: no longer ours."""
        with writing(self._engine) as connection:
            row = locked(connection, tenant).reconcile
            if row.get("holder") != holder or row.get("ended"):
                return False
            sums = Counter(row["counts"])
            sums.update(counts)
            told = {**row, "counts": dict(sums), "until": to_micros(until)}
            told |= {"ended": to_micros(now), "holder": None} if after is None else {"after": after}
            put(connection, tenant, reconcile=told)
        return True

    def latest(self, tenant: str) -> Round | None:
        asked = select(TenantRow.reconcile).where(TenantRow.tenant == tenant)
        with reading(self._engine) as connection:
            row = connection.execute(asked).scalar_one_or_none()
        if not row:
            return None
        return Round(
            began_at=_at(row, "began"),
            ended_at=_at(row, "ended") if row.get("ended") else None,
            after=row["after"],
            since=_at(row, "since") if row.get("since") else None,
            counts=row["counts"],
        )


def _at(row: Mapping[str, Any], name: str) -> datetime:
    return from_micros(row[name])
