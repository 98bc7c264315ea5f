"""A refused grant is looked up at Auth0 before it is refused for good (protocol 10)."""

from __future__ import annotations

import asyncio

from worker.domain.errors import NotFoundError, WorkerError
from worker.domain.grant import Claim, GrantId, GrantPart
from worker.domain.ports import Offload
from worker.renewal.ports import Claims, Copies

AT_ONCE = 4  # re-reads; a mass of refusals must not spend the tenant's rate limit


class Suspects:
    """Re-reads Auth0's copy: a login may have brought a refresh token we have never seen."""

    def __init__(self, pull: Copies, claims: Claims, *, offload: Offload) -> None:
        self._pull = pull
        self._claims = claims
        self._offload = offload
        self._places = asyncio.Semaphore(AT_ONCE)
        self._asking: set[GrantId] = set()

    async def reread(self, claim: Claim) -> None:
        """If Auth0 cannot be read now, the grant's next attempt asks for it again."""
        if claim.grant in self._asking:
            return
        self._asking.add(claim.grant)
        try:
            async with self._places:
                await self._look(claim)
                await self._offload(self._claims.reread, claim.grant)
        except WorkerError:
            return
        finally:
            self._asking.discard(claim.grant)

    async def _look(self, claim: Claim) -> None:
        key = claim.key
        try:
            if key.part is GrantPart.ADMIN or claim.user_id is None:
                await self._pull.connection(key.tenant, key.connection)
            else:
                await self._pull.account(key, claim.user_id)
        except NotFoundError:
            return  # the connection is gone: nothing newer can come
