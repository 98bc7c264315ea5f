"""Follows the tenant's log by checkpoint, so that lost webhooks are found (I25)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from worker.auth0 import ManagementApi, log
from worker.auth0.log import LogRecord
from worker.domain.errors import ConfigurationError, NotFoundError, PermanentError, TamperError
from worker.domain.ports import Offload, Tenants

_log = structlog.get_logger("worker.sync")

Feed = Callable[[str, Sequence[bytes]], Awaitable[None]]
"""(tenant, log records as they stand): durable when it returns; known ones are dropped there."""


class LogPoll:
    """`GET /logs?from=` until it is caught up. Needs the scope read:logs.

    The checkpoint moves only after the records are durable, so a crash repeats a page and loses
    none. Of two processes that follow one log, because a round took longer than its period, the
    one that finds the checkpoint moved gives up: reading the same pages both would take twice as
    long, of one budget, as there are processes.
    """

    def __init__(
        self,
        apis: Mapping[str, ManagementApi],
        tenants: Tenants,
        *,
        feed: Feed,
        on_gap: Callable[[str], Awaitable[None]],
        offload: Offload,
    ) -> None:
        """`on_gap(tenant)`: records are lost, and only a reconcile finds what they told of."""
        self._apis = apis
        self._tenants = tenants
        self._feed = feed
        self._on_gap = on_gap
        self._offload = offload

    async def once(self, tenant: str, *, pages: int = 500) -> int:
        """Follow for at most so many pages of 100; returns how many records came.

        Raises: TransientError, ConfigurationError (a scope is missing, or the secret is wrong).
        """
        since = await self._offload(self._tenants.checkpoint, tenant)
        if since is None:
            newest = await log.newest(self._apis[tenant]) or ""  # empty: whatever comes first
            await self._moved(tenant, None, newest)
            return 0
        count = 0
        for _ in range(pages):
            records, since = await self._page(tenant, since)
            if not records:
                break
            await self._feed(tenant, [record.raw for record in records])
            count += len(records)
            latest = next((record.id for record in reversed(records) if record.id), since)
            if latest == since:
                _log.error("log_not_followed", tenant=tenant, why="a page of records without ids")
                break
            if not await self._moved(tenant, since, latest):
                break
            since = latest
        return count

    async def _page(self, tenant: str, since: str) -> tuple[Sequence[LogRecord], str]:
        """The records, and what they come after: "", where that is not in the log any more."""
        api = self._apis[tenant]
        if not since:
            return await log.first(api), since
        try:
            return await log.after(api, since), since
        except (ConfigurationError, TamperError):
            raise  # of the checkpoint it says nothing
        except (NotFoundError, PermanentError) as error:
            _log.warning("log_checkpoint_lost", tenant=tenant, code=error.code)
        # older than the plan's log retention: all that is left of the log is read, and every user
        # we know, for whom what is gone may have told of
        if not await self._moved(tenant, since, ""):
            return (), since
        await self._on_gap(tenant)
        return await log.first(api), ""

    async def _moved(self, tenant: str, since: str | None, to: str) -> bool:
        return await self._offload(self._tenants.put_checkpoint, tenant, to, after=since)
