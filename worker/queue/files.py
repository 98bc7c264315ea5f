"""kombu's filesystem transport, made safe for several processes that start together.

Two windows of the original matter when web, worker, scheduler and Flower share a folder: a
reader may see a message that is not written yet (an empty body ends the worker), and two
processes that bind a queue at once may overwrite each other's binding. Here a message appears
by rename, and bindings change under one lock. Messages are interchangeable with the original's.
Source: https://github.com/celery/kombu/blob/main/kombu/transport/filesystem.py
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from time import time_ns
from typing import Any

from kombu.transport import filesystem, virtual
from kombu.utils.json import dumps, loads


class Channel(filesystem.Channel):
    """One process's view of the folder."""

    def _put(  # type: ignore[override]  # kombu's base and its subclass name this differently
        self, queue: Any, payload: Any, **_options: Any
    ) -> None:
        # Ordered by time over reboots too, unlike a monotonic clock.
        name = f"{time_ns()}_{uuid.uuid4()}.{queue}.msg"
        folder = Path(self.data_folder_out)
        hidden = folder / f".{name}"
        hidden.write_text(dumps(payload), encoding="utf-8")
        hidden.rename(folder / name)

    def _get(self, queue: Any, timeout: Any = None) -> Any:
        ending = f"{queue}.msg"
        folder = Path(self.data_folder_in)
        for name in sorted(os.listdir(folder)):
            if name.partition(".")[2] != ending:
                continue
            taken = Path(self.processed_folder) / name
            try:
                (folder / name).rename(taken)  # of several takers, one succeeds
            except OSError:
                continue
            try:
                return loads(taken.read_text(encoding="utf-8"))
            except ValueError:
                continue  # not a message; whoever put it there gets no second chance to stop us
            finally:
                taken.unlink(missing_ok=True)
        raise Empty

    def _queue_bind(self, *arguments: Any) -> None:
        with self._alone():
            super()._queue_bind(*arguments)

    def _delete(self, *arguments: Any, **options: Any) -> None:
        with self._alone():
            super()._delete(*arguments, **options)

    def get_table(self, exchange: str) -> Any:
        with self._alone():
            return super().get_table(exchange)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.control_folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Transport(filesystem.Transport):
    Channel = Channel
    global_state = virtual.BrokerState()
