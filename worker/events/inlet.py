"""Events that arrive as queue messages; meets `worker.queue.consumer.Inlet`."""

from __future__ import annotations

from collections.abc import Callable, Collection

from worker.domain.errors import PermanentError
from worker.domain.event import Source
from worker.events.accept import Intake


class QueueInlet:
    """Reads a message as a webhook's body is read; what nobody can read is the queue's to bury.

    A broker has no shared secret per tenant: whoever may publish may ask for work, and no more
    than that (I21).
    """

    def __init__(
        self,
        intake: Intake,
        *,
        tenants: Collection[str],
        bury: Callable[[str, bytes], None],
    ) -> None:
        """`bury(why, body)` notes a dead message for the CLI; blocking."""
        self._intake = intake
        self._tenants = frozenset(tenants)
        self._bury = bury

    def take(self, tenant: str, body: bytes) -> None:
        """Returns once durable. Raises: PermanentError, TransientError."""
        if tenant not in self._tenants:
            raise PermanentError("queue: no such tenant", code="unknown_tenant")
        reading = self._intake.read(tenant, Source.QUEUE, body)
        if reading.unreadable:
            raise PermanentError("queue: not understood", code=reading.unreadable[0].why)
        self._intake.take(tenant, Source.QUEUE, reading)

    def bury(self, *, why: str, body: bytes) -> None:
        self._bury(why, body)
