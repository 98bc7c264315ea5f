"""Follows the tenant's log by checkpoint, so that lost webhooks are found (I25)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from worker.auth0 import ManagementApi
from worker.auth0.management import log_id_of
from worker.domain.errors import NotFoundError, PermanentError
from worker.domain.ports import Offload, Tenants

_log = structlog.get_logger("worker.sync")

Feed = Callable[[str, Sequence[Mapping[str, Any]]], Awaitable[None]]
"""(tenant, log records): durable when it returns; known `log_id`s are dropped there."""


class LogPoll:
    """`GET /logs?from=` until it is caught up. Needs the scope read:logs.

    The checkpoint moves only after the records are durable, so a crash repeats a page and loses
    none.
    """

    def __init__(
        self, apis: Mapping[str, ManagementApi], tenants: Tenants, *, feed: Feed, offload: Offload
    ) -> None:
        self._apis = apis
        self._tenants = tenants
        self._feed = feed
        self._offload = offload

    async def once(self, tenant: str, *, pages: int = 50) -> int:
        """Follow for at most so many pages of 100; returns how many records came.

        Raises: TransientError, ConfigurationError (the scope is missing).
        """
        since = await self._offload(self._tenants.checkpoint, tenant)
        if since is None:
            await self._begin(tenant)
            return 0
        count = 0
        for _ in range(pages):
            records = await self._page(tenant, since)
            if not records:
                break
            await self._feed(tenant, records)
            count += len(records)
            since = log_id_of(records[-1]) or since
            await self._offload(self._tenants.put_checkpoint, tenant, since)
        return count

    async def _page(self, tenant: str, since: str) -> Sequence[Mapping[str, Any]]:
        try:
            api = self._apis[tenant]
            return await (api.logs(since) if since else api.first_logs())
        except (NotFoundError, PermanentError) as error:
            if getattr(error, "code", "") in ("insufficient_scope", "api_token_refused"):
                raise
            # older than the plan's log retention: begin anew; the reconcile finds what was missed
            _log.warning("log_checkpoint_lost", tenant=tenant, code=error.code)
            await self._begin(tenant)
            return []

    async def _begin(self, tenant: str) -> None:
        """At its end; where it is empty, at whatever comes first."""
        newest = await self._apis[tenant].last_log_id()
        await self._offload(self._tenants.put_checkpoint, tenant, newest or "")
