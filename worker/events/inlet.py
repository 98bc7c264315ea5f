"""Events that arrive as queue messages; meets `worker.queue.consumer.Inlet`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from worker.domain.errors import PermanentError
from worker.domain.event import Source
from worker.events.accept import Intake
from worker.events.bodies import Reading


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

    def take(self, messages: Sequence[tuple[str, bytes]]) -> Sequence[PermanentError | None]:
        """Returns once all are durable, with what is wrong of each. Raises: TransientError."""
        sound: dict[str, Reading] = defaultdict(Reading)
        verdicts = [self._read(tenant, body, sound) for tenant, body in messages]
        for tenant, reading in sound.items():
            self._intake.take(tenant, Source.QUEUE, reading)
        return verdicts

    def _read(self, tenant: str, body: bytes, sound: dict[str, Reading]) -> PermanentError | None:
        if tenant not in self._tenants:
            return PermanentError("queue: no such tenant", code="unknown_tenant")
        reading = self._intake.read(tenant, Source.QUEUE, body)
        sound[tenant].events += reading.events
        sound[tenant].ignored += reading.ignored
        if reading.unreadable:  # the message is buried, and what it holds besides is done
            return PermanentError("queue: not understood", code=reading.unreadable[0].why)
        return None

    def bury(self, *, why: str, body: bytes) -> None:
        self._bury(why, body)
