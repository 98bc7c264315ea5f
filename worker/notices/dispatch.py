"""Sending what waits in the outbox, to every sink, each until it has it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from worker.domain.errors import WorkerError
from worker.domain.event import Event, Trigger
from worker.domain.ports import Clock, Offload
from worker.monitoring.logs import logger
from worker.monitoring.metrics import NOTICES
from worker.notices.message import Message, message_of
from worker.store.notices import PendingNotice

_log = logger(__name__)

_LEASE = timedelta(seconds=90)
_BATCH = 100
_AT_ONCE = 16
_FIRST, _LONGEST = timedelta(seconds=5), timedelta(hours=1)
_GIVE_UP_AFTER = timedelta(days=3)


class Sink(Protocol):
    """Somebody who is told."""

    @property
    def name(self) -> str:
        """Stable: an outbox row remembers by it who has the notice."""

    def wants(self, message: Message) -> bool: ...

    async def send(self, message: Message) -> None:
        """May be called again with the same message. Raises: WorkerError when it did not go."""


class Outbox(Protocol):
    """See `worker.store.notices.NoticeRepository`."""

    def claim(
        self, *, now: datetime, lease_for: timedelta, limit: int
    ) -> Sequence[PendingNotice]: ...

    def settle(
        self,
        pending: PendingNotice,
        *,
        sent: Sequence[str],
        next_at: datetime | None,
        error: str | None,
        now: datetime,
    ) -> None: ...


class Dispatcher:
    """Drains the outbox. A sink that fails holds up neither the others nor other notices."""

    def __init__(
        self, *, outbox: Outbox, sinks: Sequence[Sink], clock: Clock, offload: Offload
    ) -> None:
        self._outbox = outbox
        self._sinks = sinks
        self._clock = clock
        self._offload = offload

    async def dispatch(self, *, budget_seconds: float) -> dict[str, int]:
        """Send what is due until nothing is, or the time is spent; returns counts by outcome."""
        counts: Counter[str] = Counter()
        deadline = self._clock.monotonic() + budget_seconds
        gate = asyncio.Semaphore(_AT_ONCE)
        while self._clock.monotonic() < deadline:
            pending = await self._offload(
                self._outbox.claim, now=self._clock.now(), lease_for=_LEASE, limit=_BATCH
            )
            if not pending:
                break
            counts.update(await asyncio.gather(*(self._one(one, gate) for one in pending)))
        return dict(counts)

    async def _one(self, pending: PendingNotice, gate: asyncio.Semaphore) -> str:
        message = message_of(pending)
        sent = set(pending.notice.get("sent") or ())
        error: str | None = None
        async with gate:
            for sink in self._sinks:
                if sink.name not in sent and sink.wants(message):
                    if (failed := await self._sent(sink, message)) is None:
                        sent.add(sink.name)
                    error = error or failed
            next_at = self._next(pending) if error else None
            await self._offload(
                self._outbox.settle,
                pending,
                sent=sorted(sent),
                next_at=next_at,
                error=error,
                now=self._clock.now(),
            )
        outcome = "sent" if error is None else "retry" if next_at else "gave_up"
        NOTICES.labels(pending.kind, outcome).inc()
        return outcome

    async def _sent(self, sink: Sink, message: Message) -> str | None:
        """None when it went; else why not."""
        try:
            await sink.send(message)
        except WorkerError as error:
            _log.warning("notice_not_sent", sink=sink.name, kind=message.kind, why=error.code)
            return f"{sink.name}: {error.code}"
        return None

    def _next(self, pending: PendingNotice) -> datetime | None:
        now = self._clock.now()
        if now - pending.created_at > _GIVE_UP_AFTER:
            return None
        wait = min(_FIRST * float(2 ** min(pending.attempts, 12)), _LONGEST)
        return now + wait * (1 + random.random() / 4)  # noqa: S311  # spreads retries


class ExchangeSink:
    """Publishes to the exchange `evergrant.notices`."""

    name = "exchange"

    def __init__(self, publish: Callable[[str, bytes], None], offload: Offload) -> None:
        """`publish(routing key, body)` returns once the broker has it, or raises TransientError."""
        self._publish = publish
        self._offload = offload

    def wants(self, message: Message) -> bool:
        return True

    async def send(self, message: Message) -> None:
        await self._offload(self._publish, f"{message.tenant}.{message.kind}", message.body)


_OF_GRANTS = frozenset(
    {
        Trigger.GRANT_RENEWED,
        Trigger.GRANT_NEEDS_LOGIN,
        Trigger.GRANT_REVOKED,
        Trigger.GRANT_ENDS_SOON,
    }
)


class ActionSink:
    """Puts a notice into the inbox, where the operator's actions for it run."""

    name = "actions"

    def __init__(
        self,
        accept: Callable[[Sequence[Event]], object],
        bound: Callable[[Event], bool],
        offload: Offload,
    ) -> None:
        """`bound(event)`: whether any action would run at all."""
        self._accept = accept
        self._bound = bound
        self._offload = offload

    def wants(self, message: Message) -> bool:
        event = message.event
        return event is not None and event.trigger in _OF_GRANTS and self._bound(event)

    async def send(self, message: Message) -> None:
        event = message.event
        if event is not None:
            await self._offload(self._accept, [event])
