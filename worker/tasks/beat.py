"""Celery beat whose every entry is a look at the store or a hint; it keeps no state of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.beat import Scheduler

from worker.domain.errors import WorkerError
from worker.monitoring.logs import logger

_log = logger(__name__)

TICK = "tick"  # no task: done here, in place


class Ticker:
    """What beat does; set by `worker.tasks.app` before a scheduler starts."""

    tick: Callable[[], object]
    hint: Callable[[str], None]


class StoreScheduler(Scheduler):
    """In memory, so two may run and none has a file to lose; the claim decides who works.

    The base class connects to the broker before each entry and waits there while it is away.
    Ours leaves that to the hints' own thread, so that a dead broker does not stop the clock.
    """

    def setup_schedule(self) -> None:
        self.merge_inplace(self.app.conf.beat_schedule)

    @property
    def producer(self) -> None:
        return None

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        try:
            if entry.task == TICK:
                Ticker.tick()
            else:
                Ticker.hint(entry.task)
        except WorkerError as error:  # the store is away: the next tick looks again
            _log.warning("tick skipped", code=error.code)
        except Exception:
            _log.exception("tick failed", entry=entry.name)
