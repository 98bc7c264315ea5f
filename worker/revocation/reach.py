"""How far a revocation reaches: what a provider offers, and which other grants end with one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from worker.domain.burial import Sibling
from worker.domain.errors import ConfigurationError
from worker.domain.exchange import ConnectionConfig
from worker.domain.grant import GrantId, GrantKey
from worker.domain.ports import Catalogue
from worker.revocation.ports import Kin, Peer

WHOLE_CONSENT = "app"  # the provider ends everything the user allowed this client


@dataclass(frozen=True, slots=True, kw_only=True)
class Nature:
    """What a provider offers on one connection: `effect` as in `Provider.revocation_effect`.

    "": nothing; None: not known here, because the connection cannot be read.
    """

    effect: str | None
    by_hand: str
    peers: Sequence[Peer] = ()  # connections of the same client, if ending one consent ends all


class OfProvider(Protocol):
    """A grant, as far as it decides how it can be ended."""

    @property
    def id(self) -> GrantId: ...

    @property
    def key(self) -> GrantKey: ...

    @property
    def provider(self) -> str: ...


class ClientsOfConnections(Protocol):
    """Connections, and which of them are one client to the provider."""

    def get(self, tenant: str, name: str) -> ConnectionConfig | None: ...

    def sharing_client(self, client_id: str) -> Sequence[Peer]: ...


G = TypeVar("G", bound=OfProvider)
NatureOf = Callable[[OfProvider], Nature]


def nature_from(catalogue: Catalogue, connections: ClientsOfConnections) -> NatureOf:
    """Read it from the catalogue; of a connection that cannot be read nothing is known."""

    def nature(grant: OfProvider) -> Nature:
        try:
            connection = connections.get(grant.key.tenant, grant.key.connection)
            if connection is None:
                return Nature(effect=None, by_hand="")
            provider = catalogue.entry(grant.provider, connection)
        except ConfigurationError:
            return Nature(effect=None, by_hand="")
        found = Nature(effect=provider.revocation_effect, by_hand=provider.revocation_by_hand)
        if found.effect != WHOLE_CONSENT or not connection.client_id:
            return found
        return replace(found, peers=connections.sharing_client(connection.client_id))

    return nature


class Reach:
    """Finds the living grants that would end together with others. Synchronous: it reads."""

    def __init__(self, kin: Kin, nature: NatureOf) -> None:
        self._kin = kin
        self.nature = nature

    def with_natures(self, grants: Sequence[G]) -> Sequence[tuple[G, Nature]]:
        """Each with what its provider offers; asked once for each connection and entry."""
        known: dict[tuple[str, str, str], Nature] = {}
        for grant in grants:
            place = (grant.key.tenant, grant.key.connection, grant.provider)
            if place not in known:
                known[place] = self.nature(grant)
        return [(g, known[g.key.tenant, g.key.connection, g.provider]) for g in grants]

    def siblings(self, grants: Sequence[OfProvider]) -> Sequence[Sibling]:
        """Of these grants together; none of them is its own sibling."""
        meant = {grant.id for grant in grants}
        of_client: dict[tuple[Peer, ...], list[GrantKey]] = {}
        for grant, nature in self.with_natures(grants):
            if nature.peers:
                of_client.setdefault(tuple(nature.peers), []).append(grant.key)
        found = {
            sibling.id: sibling
            for peers, keys in of_client.items()
            for sibling in self._kin.siblings(keys, peers, besides=meant)
        }
        return list(found.values())
