"""The way to Auth0 for one command."""

from __future__ import annotations

from worker.auth0 import open_client
from worker.bootstrap.base import Base
from worker.bootstrap.pulling import Reading


class OneReading:
    """`Reading` over a client of its own, closed with the command."""

    def __init__(self, base: Base) -> None:
        self._base = base

    async def __aenter__(self) -> Reading:
        self._http = open_client()
        base = self._base
        return Reading(base, self._http, vault=base.vault(), connections=base.connections())

    async def __aexit__(self, *_ended: object) -> None:
        await self._http.aclose()
