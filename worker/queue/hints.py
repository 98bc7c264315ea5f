"""Sends hints: never blocks, never raises, at most one on its way per subject.

A hint lost costs a tick, so nothing here retries, waits for a broker that is away, or tells the
caller. One thread publishes; what it has not sent by the time of `close` is dropped after two
seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from queue import SimpleQueue
from typing import Any, Protocol

from worker.monitoring.logs import logger
from worker.monitoring.metrics import HINTS
from worker.queue.app import EXPIRES, queue_of

DEADLINE = 2.0  # seconds for what is still to be sent at close
_PAUSE = 2.0  # seconds without a try after a failure: a broker away must not cost a thread's time

_log = logger(__name__)


class Outstanding(Protocol):
    """The store's memory of hints under way, shared by all processes."""

    def take(self, subject: str, now: datetime, for_: timedelta) -> bool:
        """True: nobody else's hint for `subject` is outstanding; now ours is."""

    def clear(self, subject: str) -> None: ...


class CeleryHints:
    """The `Hints` port over Celery, and the same for upkeep tasks."""

    def __init__(
        self,
        app: Any,
        outstanding: Outstanding,
        *,
        now: Callable[[], datetime],
        tick: timedelta,
    ) -> None:
        self._app, self._outstanding, self._now = app, outstanding, now
        # Long enough that ticks do not pile up, short enough that a flushed broker costs a tick.
        self._for = max(tick, timedelta(milliseconds=250))
        self._waiting: SimpleQueue[str | None] = SimpleQueue()
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._silent_until = 0.0

    def renew(self, provider: str) -> None:
        self.task(f"renew.{provider}")

    def events(self) -> None:
        self.task("events.process")

    def task(self, name: str) -> None:
        """Hint at the task of that name; returns at once."""
        with self._lock:
            if name in self._asked:
                return  # this very hint waits in our own line
            self._asked.add(name)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hints", daemon=True)
                self._thread.start()
        self._waiting.put(name)

    def begun(self, name: str) -> None:
        """A worker has the hint in hand: what falls due from now on needs another."""
        try:
            self._outstanding.clear(name)
        except Exception as error:  # the store is away: the hint then expires by itself
            _log.warning("hint not cleared", task=name, error=type(error).__name__)

    def close(self) -> None:
        """Send what waits, for two seconds at most."""
        with self._lock:  # somebody may be starting it at this very moment
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(DEADLINE)

    def _work(self) -> None:
        while (name := self._waiting.get()) is not None:
            with self._lock:
                self._asked.discard(name)
            HINTS.labels(queue_of(name), self._send(name)).inc()

    def _send(self, name: str) -> str:
        if time.monotonic() < self._silent_until:
            return "broker_away"
        try:
            if not self._outstanding.take(name, self._now(), self._for):
                return "outstanding"
            self._publish(name)
        except Exception as error:  # whatever broker and store can throw: a tick comes again
            self._silent_until = time.monotonic() + _PAUSE
            _log.warning("hint not sent", task=name, error=type(error).__name__)
            return "failed"
        return "sent"

    def _publish(self, name: str) -> None:
        self._app.send_task(
            name,
            queue=queue_of(name),
            ignore_result=True,
            expires=EXPIRES,
            argsrepr="",
            kwargsrepr="",
            retry_policy={"max_retries": 1, "interval_start": 0, "interval_max": 0.1},
        )
