"""What the storm wants to know of the store between two steps, past the product's own layers.

It looks some hundred times per seed, and through them that took a sixth of the simulation.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Engine

from worker.domain.grant import GrantId
from worker.store.types import from_micros


class Glance(NamedTuple):
    """A grant's row, as far as the storm cares."""

    grant: GrantId
    user_id: str
    rt_fp: bytes | None
    attempt: str | None
    claim_process: str | None
    claimed_at: datetime | None
    lease_until: datetime | None
    due_at: datetime | None
    uncertain: bool
    tombstoned: bool


_ROWS = """
SELECT id, user_id, rt_fp, attempt, claim_process, claimed_at, lease_until, due_at, uncertain,
       tombstoned_at IS NOT NULL
FROM grants
"""


class Glances:
    """On the one connection that an in-memory database has."""

    def __init__(self, store: Engine) -> None:
        self._connection: Any = store.raw_connection()
        self._execute = self._connection.driver_connection.execute

    def close(self) -> None:
        self._connection.close()

    def anything_left(self) -> bool:
        """Whether any grant is still renewed."""
        asked = "SELECT 1 FROM grants WHERE state IN ('active', 'suspect') LIMIT 1"
        return self._execute(asked).fetchone() is not None

    def grants(self) -> Iterable[Glance]:
        return map(_read, self._execute(_ROWS))

    def grant(self, grant: GrantId) -> Glance:
        return _read(self._execute(f"{_ROWS} WHERE id = ?", (grant.hex,)).fetchone())


def _read(row: Any) -> Glance:
    id_, user_id, rt_fp, attempt, process, claimed_at, lease_until, due_at, uncertain, buried = row
    return Glance(
        grant=GrantId(UUID(id_)),
        user_id=user_id,
        rt_fp=rt_fp,
        attempt=attempt,
        claim_process=process,
        claimed_at=_instant(claimed_at),
        lease_until=_instant(lease_until),
        due_at=_instant(due_at),
        uncertain=bool(uncertain),
        tombstoned=bool(buried),
    )


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)
