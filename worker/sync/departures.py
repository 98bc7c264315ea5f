"""A user who is gone: his identities may live on under another user, and then nothing ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog

from worker.auth0 import ManagementApi, Priority
from worker.domain.errors import NotFoundError, PermanentError, TransientError
from worker.domain.grant import GrantKey
from worker.domain.ports import Clock, Offload, Pull
from worker.store.findings import FindingRepository
from worker.sync.listing import EVERYBODY

_log = structlog.get_logger("worker.sync")

_SAMPLE = 3  # users whom the search has to find by identity before its silence is believed

QUIET = timedelta(minutes=5)  # with all looks, a deletion is carried out within fifteen (I25)

Withhold = Callable[[str, str], Awaitable[datetime]]
"""(tenant, user id): hand out nothing of his; returns since when that is so."""
Bury = Callable[[str, str, Mapping[str, object]], Awaitable[object]]
"""(tenant, user id, what the receipt is to tell): end what still points at the user, for good."""


class Departures:
    """Ends the grants of a user whom Auth0 does not know, after looking for them elsewhere.

    Linking makes the secondary user vanish just as deletion does; his identity is then found
    under the primary one, whose pull moves the grant's pointer. Only what still points at the
    vanished user afterwards is withheld at once, which can be undone, and ended once a quiet time
    has passed and another look says the same. To end a grant is to revoke it at the provider, for
    good, and the search index may show a link late: so nothing is ended in haste, and where the
    search cannot be asked, or finds nobody at all by his identity, nothing is ended at all.

    Args:
        quiet: how long nothing is handed out before anything is ended.
    """

    def __init__(
        self,
        apis: Mapping[str, ManagementApi],
        *,
        findings: FindingRepository,
        pull: Pull,
        bury: Bury,
        withhold: Withhold,
        clock: Clock,
        offload: Offload,
        quiet: timedelta = QUIET,
    ) -> None:
        self._apis = apis
        self._findings = findings
        self._pull = pull
        self._bury = bury
        self._withhold = withhold
        self._clock = clock
        self._offload = offload
        self._quiet = quiet
        self._proven: set[str] = set()  # tenants whose search has found somebody by identity

    async def __call__(self, tenant: str, user_id: str) -> None:
        """Call it once two reads, some time apart, found no such user; again after the quiet time.

        Raises: TransientError, also while the search index still lists the user.
        """
        try:
            moved = await self._followed(tenant, user_id)
        except PermanentError as error:  # 400, or a scope: the question cannot be asked here
            _log.warning("identity_search_refused", tenant=tenant, code=error.code)
            await self._withhold(tenant, user_id)
            return
        except TransientError:
            await self._withhold(tenant, user_id)  # two 404s are enough to hand out nothing
            raise
        if moved:
            await self._bury(tenant, user_id, {})  # nothing is left; pulls under way never merge
            return
        since = await self._withhold(tenant, user_id)
        waited = self._clock.now() - since
        if waited >= self._quiet and await self._can_search(tenant, user_id):
            receipt = {
                "withheld_since": since.isoformat(timespec="seconds"),
                "quiet_seconds": round(waited.total_seconds()),
                "search": "not found under another user",
            }
            await self._bury(tenant, user_id, receipt)

    async def _followed(self, tenant: str, user_id: str) -> bool:
        """Reread whoever has his identities now; True: no grant points at him any more."""
        for key in await self._offload(self._findings.of_user, tenant, user_id):
            await self._follow(key, user_id)
        return not await self._offload(self._findings.of_user, tenant, user_id)

    async def _can_search(self, tenant: str, user_id: str) -> bool:
        try:
            return await self._finds_by_identity(tenant, user_id)
        except PermanentError as error:
            _log.warning("identity_search_refused", tenant=tenant, code=error.code)
            return False

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
        query = of_account(identity_user_id)
        hits = await self._apis[tenant].search(query, priority=Priority.LIVE)
        return [hit.user_id for hit in hits]


def of_account(identity_user_id: str) -> str:
    """The query for users who have an account of that id, on whichever connection."""
    return f"identities.user_id:{_quoted(identity_user_id)}"


def _quoted(value: str) -> str:
    """One term of Lucene's query language, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
