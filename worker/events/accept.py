"""Making events durable before their sender hears 2xx."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from worker.domain.errors import TransientError
from worker.domain.event import Event, Source, Trigger
from worker.domain.ports import Clock, Offload
from worker.events.bodies import Reading, TenantFacts, Unreadable, read_body
from worker.events.ports import Inbox
from worker.events.spool import Spool
from worker.monitoring.metrics import EVENTS

# An Action runs before the login is complete: its tokens are not readable yet
# (https://auth0.com/docs/customize/actions/limitations)
_ACTION_HEAD_START = timedelta(seconds=3)
_PATIENCE = 8.0  # seconds with the store before the spool takes over
_AWAY_FOR = 2.0  # seconds without asking the store again
_FROZEN = 4  # calls stuck in the store before nobody tries until one comes back


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of one delivery; unreadable records are kept and count as accepted."""

    accepted: int = 0
    duplicate: int = 0
    ignored: int = 0


class Intake:
    """Accepts events into the inbox, or into the spool while the store is away."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        tenants: Mapping[str, TenantFacts],
        spool: Spool | None,
        ring: Callable[[], None],
        clock: Clock,
    ) -> None:
        """`ring` is called once per batch that brought something new, after its commit."""
        self._inbox = inbox
        self._tenants = tenants
        self._spool = spool
        self._ring = ring
        self._clock = clock
        self._away_until = float("-inf")
        self._frozen: set[asyncio.Future[Counts]] = set()  # calls the store has not come back from

    async def receive(
        self,
        tenant: str,
        source: Source,
        body: bytes,
        *,
        offload: Offload,
        delivery_id: str | None = None,
    ) -> Counts:
        """Take one delivery's body. Raises: TransientError when nothing durable could take it."""
        reading = self.read(tenant, source, body, delivery_id=delivery_id)
        taking = asyncio.ensure_future(offload(self.take, tenant, source, reading))
        if (await asyncio.wait({taking}, timeout=_PATIENCE))[0]:
            return taking.result()
        # the store is frozen; if it takes them yet, they are duplicates, which is harmless
        self._frozen.add(taking)
        taking.add_done_callback(self._thawed)
        self._note_away()
        return await offload(self._to_spool, tenant, source, reading)

    def knows(self, tenant: str) -> bool:
        """Whether the tenant is one of those configured."""
        return tenant in self._tenants

    def read(
        self, tenant: str, source: Source, body: bytes, *, delivery_id: str | None = None
    ) -> Reading:
        """What a body says about this tenant. Never raises on what a sender may send."""
        return read_body(body, tenant=self._tenants[tenant], source=source, delivery_id=delivery_id)

    def take(self, tenant: str, source: Source, reading: Reading) -> Counts:
        """Make a reading durable. Raises: TransientError when neither store nor spool can."""
        if not reading.events and not reading.unreadable:
            counts = Counts(ignored=reading.ignored)
        elif self._is_away():
            counts = self._to_spool(tenant, source, reading)
        else:
            try:
                counts = self._to_store(tenant, source, reading)
            except TransientError:
                self._note_away()
                counts = self._to_spool(tenant, source, reading)
        _count(tenant, source, reading, counts)
        return counts

    def accept(self, events: Sequence[Event]) -> Counts:
        """Events that are already understood (log poll, notices, CLI). Raises: TransientError."""
        return self._stored(events)

    def keep_oversized(self, tenant: str, source: Source, start: bytes) -> None:
        """Remember the beginning of a body that was too large to be read."""
        cut = Reading(unreadable=[Unreadable(delivery_id=_digest(start), raw=start, why="size")])
        self.take(tenant, source, cut)

    def drain_spool(self) -> int:
        """Put what waits in the spool into the inbox; returns deliveries moved. For upkeep."""
        return self._spool.drain(self._to_store) if self._spool else 0

    def _to_store(self, tenant: str, source: Source, reading: Reading) -> Counts:
        counts = self._stored(reading.events, ignored=reading.ignored)
        if not reading.unreadable:
            return counts
        rows = [(u.delivery_id, u.raw, u.why) for u in reading.unreadable]
        added = self._inbox.add_unreadable(tenant, source, rows, now=self._clock.now())
        return Counts(counts.accepted + added, counts.duplicate + len(rows) - added, counts.ignored)

    def _stored(self, events: Sequence[Event], ignored: int = 0) -> Counts:
        now = self._clock.now()
        next_at = [now + _ACTION_HEAD_START if _told_early(e) else now for e in events]
        added = self._inbox.add(events, now=now, next_at=next_at)
        if added:
            self._ring()
        return Counts(added, len(events) - added, ignored)

    def _to_spool(self, tenant: str, source: Source, reading: Reading) -> Counts:
        if self._spool is None:
            raise TransientError("store: away", code="store_away")
        self._spool.append(tenant, source, reading)
        return Counts(len(reading.events) + len(reading.unreadable), 0, reading.ignored)

    def _is_away(self) -> bool:
        return self._clock.monotonic() < self._away_until or len(self._frozen) >= _FROZEN

    def _note_away(self) -> None:
        self._away_until = self._clock.monotonic() + _AWAY_FOR

    def _thawed(self, taking: asyncio.Future[Counts]) -> None:
        self._frozen.discard(taking)
        taking.cancelled() or taking.exception()  # looked at, so that nobody logs it as unseen


def _told_early(event: Event) -> bool:
    """By an Action during the login; what an Event Stream's Action passes on has happened."""
    return event.source is Source.ACTIONS and event.trigger is Trigger.LOGIN


def _count(tenant: str, source: Source, reading: Reading, counts: Counts) -> None:
    for trigger, number in Counter(event.trigger for event in reading.events).items():
        EVENTS.labels(tenant, source.value, trigger.value, "taken").inc(number)
    for outcome, number in (
        ("duplicate", counts.duplicate),
        ("ignored", counts.ignored),
        ("unreadable", len(reading.unreadable)),
    ):
        if number:
            EVENTS.labels(tenant, source.value, "", outcome).inc(number)


def _digest(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()
