"""The audit of concurrent reads, written in groups: one commit for all that wait at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from worker.domain.ports import AuditRecord, Offload


class GroupedAudit:
    """`record` returns when the entry is durable (I19).

    While one group is being written the next gathers, so the group grows with the load and a
    lone reader waits for nobody. A group that fails fails for each of its readers: no audit,
    no answer.
    """

    def __init__(
        self, write: Callable[[Sequence[AuditRecord]], None], offload: Offload, *, most: int = 256
    ) -> None:
        self._write = write
        self._offload = offload
        self._most = most
        self._waiting: list[tuple[AuditRecord, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, entry: AuditRecord) -> None:
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, durable))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_groups())
        await durable

    async def _write_groups(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                await self._offload(self._write, [entry for entry, _ in group])
            except Exception as error:  # handed to those who wait; the next group tries anew
                _settle(group, error)
            else:
                _settle(group, None)


def _settle(
    group: Sequence[tuple[AuditRecord, asyncio.Future[None]]], error: Exception | None
) -> None:
    for _, durable in group:
        if durable.done():
            continue  # its reader went away meanwhile
        if error is None:
            durable.set_result(None)
        else:
            durable.set_exception(error)
