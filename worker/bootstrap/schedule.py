"""The schedule as the store tells it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine

from worker.domain.ports import Clock
from worker.store.due_index import DueIndex, DueWork
from worker.store.overview import Overview


class StoreSchedule:
    """Meets `tick.Schedule`; reads only, claims nothing."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._due = DueIndex(engine, clock)
        self._overview = Overview(engine)

    def due(self) -> Sequence[DueWork]:
        return self._due.work()

    def events_due(self, now: datetime) -> bool:
        return self._overview.events_due(now)

    def notices_due(self, now: datetime) -> bool:
        return self._overview.notices_due(now)
