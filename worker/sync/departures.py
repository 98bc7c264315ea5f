"""A user who is gone: his identities may live on under another user, and then nothing ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from worker.auth0 import ManagementApi, Priority
from worker.domain.errors import NotFoundError, PermanentError, TransientError
from worker.domain.grant import GrantKey
from worker.domain.ports import Offload, Pull
from worker.store.findings import FindingRepository
from worker.sync.listing import EVERYBODY

_log = structlog.get_logger("worker.sync")

_SAMPLE = 3  # users whom the search has to find by identity before its silence is believed

OfUser = Callable[[str, str], Awaitable[object]]
"""(tenant, user id): what to do with the grants that still point at the user."""


class Departures:
    """Ends the grants of a user whom Auth0 does not know, after looking for them elsewhere.

    Linking makes the secondary user vanish just as deletion does; his identity is then found
    under the primary one, whose pull moves the grant's pointer. Only what still points at the
    vanished user afterwards is ended. To end a grant is to revoke it at the provider, for good:
    where the search cannot be asked, or finds nobody at all by his identity, nothing is ended.

    Args:
        bury: tombstone; for a user who is surely gone.
        withhold: keep, but hand out nothing; for one who may have been linked away.
    """

    def __init__(
        self,
        apis: Mapping[str, ManagementApi],
        *,
        findings: FindingRepository,
        pull: Pull,
        bury: OfUser,
        withhold: OfUser,
        offload: Offload,
    ) -> None:
        self._apis = apis
        self._findings = findings
        self._pull = pull
        self._bury = bury
        self._withhold = withhold
        self._offload = offload
        self._proven: set[str] = set()  # tenants whose search has found somebody by identity

    async def __call__(self, tenant: str, user_id: str) -> None:
        """Call it once two reads, some time apart, found no such user.

        Raises: TransientError, also while the search index still lists the user.
        """
        try:
            for key in await self._offload(self._findings.of_user, tenant, user_id):
                await self._follow(key, user_id)
            left = await self._offload(self._findings.of_user, tenant, user_id)
            sure = not left or await self._finds_by_identity(tenant, user_id)
        except PermanentError as error:  # 400, or a scope: the question cannot be asked here
            _log.warning("identity_search_refused", tenant=tenant, code=error.code)
            sure = False
        await (self._bury if sure else self._withhold)(tenant, user_id)

    async def _follow(self, key: GrantKey, user_id: str) -> None:
        """Reread whoever has the identity now."""
        owners = await self._owners(key.tenant, key.identity_user_id)
        if user_id in owners:
            raise TransientError(
                f"{key.tenant}: the search still lists a user who is gone: it would not show yet "
                "to whom he was linked",
                code="search_lags",
            )
        for owner in owners:
            try:
                await self._pull.user(key.tenant, owner)
            except NotFoundError:
                _log.info("identity_owner_gone_too", tenant=key.tenant)

    async def _finds_by_identity(self, tenant: str, gone: str) -> bool:
        """Whether "nobody" is an answer: other users are found by their identities.

        Of a user who is not linked the id is the provider's name and the identity's id.
        """
        if tenant in self._proven:
            return True
        hits = await self._apis[tenant].search(EVERYBODY, priority=Priority.LIVE)
        others = [hit.user_id for hit in hits if hit.user_id != gone]
        for other in others[:_SAMPLE]:
            for identity in {other.partition("|")[2], other.rpartition("|")[2]}:
                if other in await self._owners(tenant, identity):
                    self._proven.add(tenant)
                    return True
        known = await self._offload(self._findings.users, tenant, after="", limit=2)
        return not others and not set(known) - {gone}  # he was the last one

    async def _owners(self, tenant: str, identity_user_id: str) -> Sequence[str]:
        query = f"identities.user_id:{_quoted(identity_user_id)}"
        hits = await self._apis[tenant].search(query, priority=Priority.LIVE)
        return [hit.user_id for hit in hits]


def _quoted(value: str) -> str:
    """One term of Lucene's query language, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
