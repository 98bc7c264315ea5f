"""`celery -A worker.tasks.app worker` and `… beat`: the same as `evergrant worker`, `scheduler`.

Importing this reads the settings and opens nothing: a worker's part of the world is made on its
first use, a scheduler's on its first tick.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from celery.schedules import crontab
from celery.signals import (
    beat_init,
    setup_logging,
    worker_init,
    worker_shutdown,
    worker_shutting_down,
)
from celery.worker.control import Panel

from worker import settings as _settings

settings = _settings.load()
_settings.share_metrics(settings.data_dir)  # before our metrics are made

from worker.bootstrap.base import Role, load_entries, open_base  # noqa: E402  # after the above
from worker.bootstrap.runtime import one_arena, spare_collector  # noqa: E402
from worker.bootstrap.schedule import StoreSchedule  # noqa: E402
from worker.bootstrap.tick import tick  # noqa: E402
from worker.bootstrap.working import JOBS, Worker  # noqa: E402
from worker.monitoring import logs, metrics  # noqa: E402
from worker.queue.app import celery_app, looks_only  # noqa: E402
from worker.queue.consumer import consumer_step  # noqa: E402
from worker.tasks.beat import TICK, Ticker  # noqa: E402
from worker.tasks.shells import register  # noqa: E402

_making = threading.Lock()
_workers: dict[int, Worker] = {}  # by process: what a fork brings along is of no use


def worker() -> Worker:
    """This process's worker, made once however many threads ask."""
    with _making:
        if os.getpid() not in _workers:
            one_arena()
            _workers[os.getpid()] = Worker(settings, celery=app)
            spare_collector()
        return _workers[os.getpid()]


_entries = list(load_entries(settings).names())
app = celery_app(settings, _entries)
register(app, _entries, JOBS, worker)
app.steps["consumer"].add(consumer_step(lambda: worker().inlet))


def _schedule() -> dict[str, Any]:
    """Beat's entries; the tick looks at the store, the others hint."""
    periods = {job: period for job, period in JOBS.items() if period is not None}
    entries: dict[str, Any] = {
        job: {"task": f"upkeep.{job}", "schedule": max(period, settings.tick)}
        for job, period in periods.items()
    }
    if settings.reconcile_hour is not None:
        nightly = crontab(minute="17", hour=str(settings.reconcile_hour))
        entries["reconcile"] = {"task": "upkeep.reconcile", "schedule": nightly}
    return {TICK: {"task": TICK, "schedule": settings.tick}, **entries}


app.conf.beat_schedule = _schedule()


@setup_logging.connect
def _logs(**_signal: Any) -> None:
    """Celery sets up no logging of its own: every line passes our redaction."""
    logs.configure(json=settings.log_format == "json", level=settings.log_level)


@beat_init.connect
def _scheduler_starts(**_signal: Any) -> None:
    base = open_base(settings, Role.SCHEDULER, celery=app)
    schedule = StoreSchedule(base.engine, base.clock)
    Ticker.tick = lambda: tick(schedule, base.hints, base.clock.now())
    Ticker.hint = base.hints.task


@worker_init.connect
def _worker_starts(**_signal: Any) -> None:
    """Before the broker is asked for anything: renewal does not wait for it."""
    looks_only(Panel.data)
    worker().start()
    if settings.metrics_port is not None:
        metrics.serve(settings.host, settings.metrics_port)


@worker_shutting_down.connect
def _worker_is_asked_to_stop(**_signal: Any) -> None:
    worker().stop_claiming()


@worker_shutdown.connect
def _worker_ends(**_signal: Any) -> None:
    worker().close()
