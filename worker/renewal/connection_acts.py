"""What an attempt may do to its connection: stop it (I9), and pin its host at first use (I13)."""

from __future__ import annotations

import structlog

from worker.domain.errors import TransientError
from worker.domain.exchange import ConnectionConfig
from worker.domain.ports import Clock, Connections, Offload
from worker.renewal.prepared import Prepared
from worker.renewal.resolving import Resolver

_log = structlog.get_logger(__name__)


class ConnectionActs:
    """Other attempts of this process see the change at once, other processes within seconds."""

    def __init__(
        self, connections: Connections, resolver: Resolver, *, clock: Clock, offload: Offload
    ) -> None:
        self._connections = connections
        self._resolver = resolver
        self._clock = clock
        self._offload = offload

    async def stop(self, prepared: Prepared, why: str) -> bool:
        """True: it was open until now."""
        key = prepared.claim.key
        self._resolver.forget(key.tenant, key.connection)
        try:
            known = await self._offload(self._connections.get, key.tenant, key.connection)
            if known is None or known.stopped is not None or _mended(prepared.connection, known):
                return False
            await self._offload(
                self._connections.stop,
                key.tenant,
                key.connection,
                reason=why,
                now=self._clock.now(),
            )
        except TransientError:
            return False
        _log.warning("connection_stopped", tenant=key.tenant, connection=key.connection, why=why)
        return True

    async def approve_host(self, prepared: Prepared, host: str) -> str | None:
        """Pin the host at first use; the one that is pinned, which may be another's first use.
        Raises: TransientError; then nothing is sent."""
        key = prepared.claim.key
        pinned = await self._offload(
            self._connections.approve_host, key.tenant, key.connection, host
        )
        self._resolver.forget(key.tenant, key.connection)
        return pinned


def _mended(asked: ConnectionConfig, known: ConnectionConfig) -> bool:
    """Whether the client was changed after the attempt began: its answer says nothing of today."""
    before = (asked.client_id, asked.client_secret, asked.options, asked.headers)
    return before != (known.client_id, known.client_secret, known.options, known.headers)
