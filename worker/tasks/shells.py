"""Registers one task per catalogue entry, one for events, and the upkeep tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from celery import Celery

from worker.domain.errors import WorkerError
from worker.monitoring.logs import logger
from worker.monitoring.metrics import TASKS

_log = logger(__name__)

Counts = Mapping[str, int]


class Work(Protocol):
    """What a worker process can do; made on first use, after any fork."""

    def renew(self, provider: str) -> Counts: ...

    def events(self) -> Counts: ...

    def upkeep(self, job: str) -> Counts: ...

    def begun(self, task: str) -> None: ...


def register(
    app: Celery, entries: Iterable[str], jobs: Iterable[str], work: Callable[[], Work]
) -> None:
    """One task name per provider, so that Flower and its metrics show each apart."""
    for entry in entries:
        _shell(app, f"renew.{entry}", work, partial(_renew, entry))
    _shell(app, "events.process", work, lambda w: w.events())
    for job in jobs:
        _shell(app, f"upkeep.{job}", work, partial(_upkeep, job))


def _renew(entry: str, work: Work) -> Counts:
    return work.renew(entry)


def _upkeep(job: str, work: Work) -> Counts:
    return work.upkeep(job)


def _shell(
    app: Celery, name: str, work: Callable[[], Work], call: Callable[[Work], Counts]
) -> None:
    def run(*_args: Any, **_kwargs: Any) -> dict[str, int]:  # forged arguments are not looked at
        worker = work()
        worker.begun(name)
        try:
            counts = dict(call(worker))
        except WorkerError as error:
            # Not raised: a failed task would be shown with its traceback, and nothing retries
            # it; the store still has the work and the next tick hints at it.
            TASKS.labels(name, error.code).inc()
            _log.warning("task gave up", task=name, code=error.code, error=str(error))
            return {"gave_up": 1}
        TASKS.labels(name, "done").inc()
        if any(count for name_, count in counts.items() if name_ != "joined"):
            _log.info("done", task=name, **counts)
        return counts

    run.__doc__ = f"Runs what the store says is due for `{name}`."
    app.task(run, name=name, ignore_result=True)
