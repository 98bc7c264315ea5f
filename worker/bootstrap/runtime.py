"""One event loop per process, on a thread of its own; Celery's threads hand it work and wait.

Made on first use, hence after any fork: neither a loop nor a thread survives one.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


# Allocations between collections. Python's 700 lets a busy worker walk its caches hundreds of
# times a second, for a fifth of its CPU; what a renewal makes is freed by counting references.
_COLLECT_EVERY = 100_000
_M_ARENA_MAX = -8  # of glibc's malloc.h


def spare_collector() -> None:
    """For a long-lived process, when all it needs is loaded: that much is never garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 20, 50)


def one_arena() -> None:
    """Before the first thread starts: glibc gives each of them memory of its own to keep, which
    for threads that take turns is waste. Where the C library is another, nothing happens."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


class Loop:
    """The loop that carries every exchange of this process."""

    def __init__(self, name: str = "loop") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop and wait; for any thread but the loop's own."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def soon(self, call: Callable[[], object]) -> None:
        """Call something quick on the loop's thread, without waiting; safe in a signal handler."""
        self._loop.call_soon_threadsafe(call)

    def close(self) -> None:
        """Cancel what runs, and end the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(5)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Threads:
    """The `Offload` port over a small pool, so that a slow store cannot take all threads.

    Each call runs on the CPU where the loop is. Python lets one thread of a process go on at a
    time, so another CPU saves nothing, and to wake one for each turn of theirs costs: where CPUs
    are idle up to a twelfth of all that a renewal takes.
    """

    def __init__(self, size: int, name: str = "store") -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=name)

    async def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        here = _cpu()

        def beside() -> T:
            _move_to(here)
            return call(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._pool, beside)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _cpu_teller() -> Callable[[], int]:
    """`sched_getcpu` of the C library; -1 for "wherever" where there is none, or where threads do
    not take turns (a Python without its lock)."""
    teller: Callable[[], int] = getattr(ctypes.PyDLL(None), "sched_getcpu", lambda: -1)
    turns = getattr(sys, "_is_gil_enabled", lambda: True)()
    return teller if turns and hasattr(os, "sched_setaffinity") else lambda: -1


_cpu = _cpu_teller()
_thread = threading.local()


def _move_to(cpu: int) -> None:
    """Let this thread run there and nowhere else; where that is refused, it runs anywhere."""
    if cpu < 0 or getattr(_thread, "cpu", None) == cpu:
        return
    with suppress(OSError):
        os.sched_setaffinity(0, {cpu})
    _thread.cpu = cpu
