"""An app gives one grant up. Here it ends at once; at the provider a worker sees to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.domain.access import ApiKey, Verb
from worker.domain.burial import Selection, Sibling
from worker.domain.errors import NotFoundError
from worker.domain.grant import GrantId, GrantState
from worker.domain.held import GONE, Ask, HeldGrant
from worker.domain.ports import Clock, Offload
from worker.domain.refusals import AmbiguousError, GoneError, TooWideError
from worker.revocation.ports import Finder, Tombstones
from worker.revocation.reach import Reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    grant: GrantId
    state: GrantState
    effect: str | None
    by_hand: str
    siblings: Sequence[GrantId] = ()  # given up with it, because the provider ends them too


class Requests:
    """Takes revocations from apps and operators."""

    def __init__(
        self,
        *,
        grants: Finder,
        tombstones: Tombstones,
        reach: Reach,
        clock: Clock,
        offload: Offload,
    ) -> None:
        self._grants = grants
        self._tombstones = tombstones
        self._reach = reach
        self._clock = clock
        self._offload = offload

    async def revoke(self, key: ApiKey, ask: Ask, *, include_siblings: bool = False) -> Begun:
        """Bury one grant.

        Args:
            include_siblings: agreed that living grants which the provider ends together with this
                one are given up too; without it such a grant is not given up.
        Raises: NotFoundError (not there or not for this key), AmbiguousError, GoneError,
            TooWideError, TransientError.
        """
        found = await self._offload(self._grants.find, ask)
        if not found or not key.allows(Verb.REVOKE, ask.tenant, ask.connection, ask.user_id):
            raise NotFoundError("no such grant, or not for this key", code="not_found")
        if len(found) > 1:
            raise AmbiguousError([held.key.identity_user_id for held in found])
        return await self.give_up(key, found[0], include_siblings=include_siblings)

    async def give_up(
        self, key: ApiKey, held: HeldGrant, *, include_siblings: bool = False
    ) -> Begun:
        """Bury this very grant, of which the key is known to be allowed. Raises: as `revoke`."""
        if held.state in GONE:
            raise GoneError(grant=held.id)
        return await self._offload(self._bury, held, key, include_siblings)

    def _bury(self, held: HeldGrant, key: ApiKey, include_siblings: bool) -> Begun:
        siblings = self._reach.siblings([held])
        theirs = [one for one in siblings if not _may_end(key, one)]
        if siblings and (theirs or not include_siblings):
            seen = [one.id for one in siblings if one not in theirs]
            raise TooWideError(seen, hidden=len(theirs))
        also = tuple(one.id for one in siblings)
        selection = Selection(tenant=held.key.tenant, grant=held.id, also=also)
        self._tombstones.bury(
            selection, why="asked", actor=f"key:{key.name}", now=self._clock.now()
        )  # fmt: skip
        nature = self._reach.nature(held)
        return Begun(
            grant=held.id,
            state=GrantState.TOMBSTONED,
            effect=nature.effect,
            by_hand=nature.by_hand,
            siblings=also,
        )


def _may_end(key: ApiKey, sibling: Sibling) -> bool:
    """A key ends nothing that it could not give up by itself."""
    return key.allows(Verb.REVOKE, sibling.key.tenant, sibling.key.connection, sibling.user_id)
