"""A burst of wishes for one subject becomes one piece of work, or two if one had begun before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Coalesced(Generic[T]):
    """Whoever asks before the work begins shares it; whoever asks later shares the next.

    Sharing work that has begun would be wrong: it may have read what was before the event.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, asyncio.Task[T]] = {}
        self._running: dict[Hashable, asyncio.Task[T]] = {}

    async def run(self, subject: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of one run of `work` that begins after this call. Raises what it raises."""
        task = self._waiting.get(subject)
        if task is None:
            task = asyncio.create_task(self._next(subject, work))
            self._waiting[subject] = task
            task.add_done_callback(_seen)
        return await asyncio.shield(task)  # one of many may give up; the others still want it

    async def _next(self, subject: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        while (before := self._running.get(subject)) is not None:
            await asyncio.wait([before])
        task = self._waiting.pop(subject)
        self._running[subject] = task
        try:
            return await work()
        finally:
            del self._running[subject]


def _seen(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()  # told to whoever waited; else nobody is left to tell
