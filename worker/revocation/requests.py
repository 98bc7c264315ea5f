"""An app gives one grant up. Here it ends at once; at the provider a worker sees to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.domain.access import ApiKey, Verb
from worker.domain.burial import Selection
from worker.domain.errors import ConfigurationError, NotFoundError
from worker.domain.grant import GrantId, GrantState
from worker.domain.held import GONE, Ask, HeldGrant
from worker.domain.ports import Catalogue, Clock, Connections, Offload
from worker.domain.refusals import AmbiguousError, GoneError, TooWideError
from worker.revocation.ports import Finder, Tombstones

WHOLE_CONSENT = "app"  # the provider ends everything the user allowed this client


@dataclass(frozen=True, slots=True, kw_only=True)
class Nature:
    """What a provider offers: `effect` as in `Provider.revocation_effect`, "" for nothing.

    None: not known here; then it may be wide.
    """

    effect: str | None
    by_hand: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    grant: GrantId
    state: GrantState
    effect: str | None
    by_hand: str


class Requests:
    """Takes revocations from apps and operators."""

    def __init__(
        self,
        *,
        grants: Finder,
        tombstones: Tombstones,
        nature: Callable[[HeldGrant], Nature],
        clock: Clock,
        offload: Offload,
    ) -> None:
        self._grants = grants
        self._tombstones = tombstones
        self._nature = nature
        self._clock = clock
        self._offload = offload

    async def revoke(self, key: ApiKey, ask: Ask, *, wide: bool = False) -> Begun:
        """Bury one grant.

        Args:
            wide: agreed that the provider may end the user's other grants of the same client.
        Raises: NotFoundError (not there or not for this key), AmbiguousError, GoneError,
            TooWideError, TransientError.
        """
        found = await self._offload(self._grants.find, ask)
        if not found or not key.allows(Verb.REVOKE, ask.tenant, ask.connection, ask.user_id):
            raise NotFoundError("no such grant, or not for this key", code="not_found")
        if len(found) > 1:
            raise AmbiguousError([held.key.identity_user_id for held in found])
        if found[0].state in GONE:
            raise GoneError(grant=found[0].id)
        return await self._offload(self._bury, found[0], f"key:{key.name}", wide)

    def _bury(self, held: HeldGrant, actor: str, wide: bool) -> Begun:
        nature = self._nature(held)
        may_be_wide = nature.effect in (WHOLE_CONSENT, None)
        if may_be_wide and not wide and (others := self._siblings(held)):
            raise TooWideError(others)
        selection = Selection(tenant=held.key.tenant, grant=held.id)
        self._tombstones.bury(selection, why="asked", actor=actor, now=self._clock.now())
        return Begun(
            grant=held.id,
            state=GrantState.TOMBSTONED,
            effect=nature.effect,
            by_hand=nature.by_hand,
        )

    def _siblings(self, held: HeldGrant) -> Sequence[GrantId]:
        """Living grants of the same account at the same provider."""
        if held.user_id is None:
            return []
        return [
            other.id
            for other in self._grants.of_user(held.key.tenant, held.user_id)
            if other.id != held.id
            and other.state not in GONE
            and other.provider == held.provider
            and other.key.identity_user_id == held.key.identity_user_id
        ]


def nature_from(catalogue: Catalogue, connections: Connections) -> Callable[[HeldGrant], Nature]:
    """Read it from the catalogue; of a connection that cannot be read nothing is known."""

    def nature(held: HeldGrant) -> Nature:
        try:
            connection = connections.get(held.key.tenant, held.key.connection)
            if connection is None:
                return Nature(effect=None, by_hand="")
            provider = catalogue.entry(held.provider, connection)
        except ConfigurationError:
            return Nature(effect=None, by_hand="")
        return Nature(effect=provider.revocation_effect, by_hand=provider.revocation_by_hand)

    return nature
