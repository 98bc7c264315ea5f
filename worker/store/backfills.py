"""How far each backfill of a tenant has come, so that another process, or machine, can go on.

One column of the `tenants` table, by what is read: "search" for every user as the search lists
them, or a digest of a list of ids. Whoever begins one again takes it over: the run before finds
out when it saves, and ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from worker.store.engine import writing
from worker.store.tenant_row import locked, put
from worker.store.types import to_micros

_KEPT = timedelta(days=30)  # what nobody has gone on with for so long is forgotten


class BackfillRepository:
    """Raises everywhere: TransientError, the store is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(
        self, tenant: str, what: str, run: str, *, now: datetime, anew: bool = False
    ) -> Mapping[str, Any]:
        """Take it for `run`; returns what was saved of it, nothing if it begins."""
        with writing(self._engine) as connection:
            known: dict[str, Any] = locked(connection, tenant).backfill
            oldest = to_micros(now - _KEPT)
            known = {name: one for name, one in known.items() if one["at"] > oldest}
            saved = {} if anew else known.get(what, {}).get("state", {})
            known[what] = {"run": run, "at": to_micros(now), "state": saved}
            put(connection, tenant, backfill=known)
        return dict(saved)

    def save(
        self, tenant: str, what: str, run: str, state: Mapping[str, Any], *, now: datetime
    ) -> bool:
        """False: another run has taken it over, and nothing was written."""
        with writing(self._engine) as connection:
            known = dict(locked(connection, tenant).backfill)
            if known.get(what, {}).get("run") != run:
                return False
            known[what] = {"run": run, "at": to_micros(now), "state": dict(state)}
            put(connection, tenant, backfill=known)
        return True

    def end(self, tenant: str, what: str, run: str) -> None:
        """It is complete: the next one begins at the beginning."""
        with writing(self._engine) as connection:
            known = dict(locked(connection, tenant).backfill)
            if known.get(what, {}).get("run") == run:
                del known[what]
                put(connection, tenant, backfill=known)
