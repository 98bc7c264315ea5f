"""Calls of concurrent readers, made in groups: one hop, one connection, one commit for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from worker.domain.ports import Offload

Q = TypeVar("Q")
A = TypeVar("A")

MOST = 64  # in one group; bounds what a transaction holds and what one failure touches


class Grouped(Generic[Q, A]):
    """Turns `call(questions) -> answers` into `await ask(question) -> answer`.

    While one group is under way the next gathers, so the group grows with the load and a lone
    caller waits for nobody. A group that fails fails for each of its callers.
    """

    def __init__(self, call: Callable[[Sequence[Q]], Sequence[A]], offload: Offload) -> None:
        self._call = call
        self._offload = offload
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            futures = [answer for _, answer in group]
            try:
                answers = await self._offload(self._call, [question for question, _ in group])
            except BaseException as error:
                _fail(futures, error)
                if not isinstance(error, Exception):
                    raise  # the loop is ending
            else:
                for future, answer in zip(futures, answers, strict=True):
                    if not future.done():  # its caller went away meanwhile
                        future.set_result(answer)


def _fail(futures: Sequence[asyncio.Future[A]], error: BaseException) -> None:
    for future in futures:
        if future.done():
            continue
        if isinstance(error, Exception):
            future.set_exception(error)
        else:
            future.cancel()
