"""When the grants of a provider fall due, counted for planning; no token, no id."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from sqlalchemy import Engine, select

from worker.domain.grant import GrantState
from worker.store.engine import reading
from worker.store.tables import GrantRow

_STEP = 60.0  # seconds; finer than anybody plans


def dues_of(engine: Engine, provider: str, now: datetime) -> Counter[tuple[float, float]]:
    """(seconds to the next renewal, seconds an access token lives) to how many; by the minute.

    Reads every renewable grant of the provider: a minute for ten million.
    """
    found: Counter[tuple[float, float]] = Counter()
    asked = (
        select(GrantRow.due_at, GrantRow.issued_at, GrantRow.expires_at)
        .where(
            GrantRow.provider == provider,
            GrantRow.state.in_([GrantState.ACTIVE.value, GrantState.SUSPECT.value]),
            GrantRow.due_at.is_not(None),
        )
        .execution_options(yield_per=10_000)
    )
    with reading(engine) as connection:
        for row in connection.execute(asked):
            life = (row.expires_at - row.issued_at).total_seconds() if row.expires_at else 0.0
            due = max(0.0, (row.due_at - now).total_seconds())
            found[due // _STEP * _STEP, round(life / _STEP) * _STEP] += 1
    return found
