"""A user who is gone: his identities may live on under another user, and then nothing ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import structlog

from worker.auth0 import ManagementApi, Priority
from worker.domain.errors import NotFoundError, PermanentError
from worker.domain.grant import GrantKey
from worker.domain.ports import Offload, Pull
from worker.store.findings import FindingRepository

_log = structlog.get_logger("worker.sync")

Bury = Callable[[str, str], Awaitable[None]]
"""(tenant, user id): tombstone the grants that point at the user."""


class Departures:
    """Ends the grants of a user whom Auth0 does not know, after looking for them elsewhere.

    Linking makes the secondary user vanish just as deletion does; his identity is then found
    under the primary one, whose pull moves the grant's pointer. Only what still points at the
    vanished user afterwards is buried.
    """

    def __init__(
        self,
        apis: Mapping[str, ManagementApi],
        *,
        findings: FindingRepository,
        pull: Pull,
        bury: Bury,
        offload: Offload,
    ) -> None:
        self._apis = apis
        self._findings = findings
        self._pull = pull
        self._bury = bury
        self._offload = offload

    async def __call__(self, tenant: str, user_id: str) -> None:
        """Call it once two reads, some time apart, found no such user. Raises: TransientError."""
        for key in await self._offload(self._findings.of_user, tenant, user_id):
            for owner in await self._owners(key):
                if owner != user_id:  # the search index lags, and may still list him
                    await self._reread(tenant, owner)
        await self._bury(tenant, user_id)

    async def _owners(self, key: GrantKey) -> list[str]:
        query = f"identities.user_id:{_quoted(key.identity_user_id)}"
        try:
            hits = await self._apis[key.tenant].search(query, priority=Priority.LIVE)
        except PermanentError as error:
            _log.warning("identity_search_refused", tenant=key.tenant, code=error.code)
            return []
        return [hit.user_id for hit in hits]

    async def _reread(self, tenant: str, user_id: str) -> None:
        try:
            await self._pull.user(tenant, user_id)
        except NotFoundError:
            _log.info("identity_owner_gone_too", tenant=tenant)


def _quoted(value: str) -> str:
    """One term of Lucene's query language, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
