"""What an attempt may do to its connection: stop it (I9), and pin its host at first use (I13)."""

from __future__ import annotations

import structlog

from worker.domain.errors import PermanentError, TransientError
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
        """True: it was open until now. False also where it was mended after the attempt began."""
        key = prepared.claim.key
        try:
            stopped = await self._offload(
                self._connections.stop,
                key.tenant,
                key.connection,
                asked=prepared.connection,
                reason=why,
                now=self._clock.now(),
            )
        except TransientError:
            return False
        except PermanentError as error:  # the next answer tries again
            _log.error("connection_not_stopped", connection=key.connection, why=str(error))
            return False
        finally:  # whether stopped or mended, it is not as it was read
            self._resolver.forget(key.tenant, key.connection)
        if stopped:
            _log.warning(
                "connection_stopped", tenant=key.tenant, connection=key.connection, why=why
            )
        return stopped

    async def approve_host(self, prepared: Prepared, host: str) -> str | None:
        """Pin the host at first use; the one that is pinned, which may be another's first use.
        Raises: TransientError, PermanentError; then nothing is sent."""
        key = prepared.claim.key
        pinned = await self._offload(
            self._connections.approve_host, key.tenant, key.connection, host
        )
        self._resolver.forget(key.tenant, key.connection)
        return pinned
