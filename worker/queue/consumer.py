"""Raw messages in: whoever can publish to the exchange `evergrant.events` feeds the worker.

Routing key `auth0.<tenant>.<trigger>`, body a CloudEvent in JSON (or any body that the webhooks
take). The producer needs to know nothing of Celery. A message is acked after its events are
durable; one that cannot be understood goes to the dead-letter queue, with its beginning kept where
`evergrant events failed` lists it. Nothing is ever unpickled: bodies stay bytes here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from celery import bootsteps
from kombu.asynchronous import get_event_loop
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer
from kombu.mixins import ConsumerMixin

from worker.domain.errors import PermanentError, TransientError
from worker.monitoring.logs import logger
from worker.queue.app import as_others_see

EXCHANGE = "evergrant.events"
DEAD = "evergrant.dead"
DEAD_QUEUE = "evergrant.events.dead"
LONGEST_BODY = 1024 * 1024  # bytes
PREFETCH = 16  # bounds what a flood of large messages may take of memory
_DELIVERIES = 20  # of one message, before RabbitMQ gives up on it
_GATHER = 0.01  # seconds in which messages that come together share a commit
_PAUSE = 1.0  # seconds before a message goes back while the store is away

_KEY = re.compile(r"auth0\.(?P<tenant>[a-z0-9][a-z0-9_-]{0,62})\.(?P<trigger>[a-z_.]+)")
_JSON = ("application/json", "application/cloudevents+json", "application/cloudevents-batch+json")
# what bare clients set, or leave out; the body decides
_UNTOLD = ("", "text/plain", "application/octet-stream", "application/data")

_log = logger(__name__)


class Inlet(Protocol):
    """What takes messages in; wired to the intake."""

    def take(self, messages: Sequence[tuple[str, bytes]]) -> Sequence[PermanentError | None]:
        """Take (tenant, body) of each; returns once durable, with what is wrong of each.

        Raises: TransientError while nothing can take them; then none counts as taken.
        """

    def bury(self, *, why: str, body: bytes) -> None:
        """Note a dead message for the CLI. Raises: TransientError."""


def events_queue(transport: str) -> Queue:
    """The queue bound to everything that concerns us; `transport` is the URL's scheme.

    On RabbitMQ it is a quorum queue that dead-letters at least once
    (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering); elsewhere dead messages are
    published by hand.
    """
    exchange = Exchange(EXCHANGE, type="topic", durable=True)
    return Queue(
        EXCHANGE,
        exchange,
        routing_key="auth0.#",
        durable=True,
        queue_arguments=_dead_lettering() if _is_rabbitmq(transport) else None,
    )


def dead_queue(transport: str) -> Queue:
    """Where dead messages end; bounded, for nobody may ever look."""
    arguments = {"x-queue-type": "quorum", "x-max-length": 10_000} | {
        "x-max-length-bytes": 256 * 1024 * 1024
    }
    return Queue(
        DEAD_QUEUE,
        Exchange(DEAD, type="direct", durable=True),
        routing_key=DEAD_QUEUE,
        durable=True,
        queue_arguments=arguments if _is_rabbitmq(transport) else None,
    )


def _dead_lettering() -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-routing-key": DEAD_QUEUE,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # at-least-once asks for it
        "x-delivery-limit": _DELIVERIES,
    }


def _is_rabbitmq(transport: str) -> bool:
    return transport.split("+", 1)[0] in ("amqp", "amqps", "pyamqp")


class EventMessages:
    """Handles messages, those that come together in one commit; at home in any kombu consumer."""

    def __init__(
        self,
        inlet: Inlet,
        dead_letters: bool,
        pause: Callable[[float], object],
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """`dead_letters`: the broker has them (RabbitMQ); else we publish them ourselves.
        `pause` waits, or returns early when the process stops. `later` calls back in some
        milliseconds on the consumer's own thread; None: each message is a commit."""
        self._inlet = inlet
        self._dead_letters = dead_letters
        self._pause = pause
        self._later = later
        self._waiting: list[Any] = []

    def on_message(self, message: Any) -> None:
        """Ack, dead-letter, or give back; never raises what the message's content caused."""
        self._waiting.append(message)
        if self._later is None or len(self._waiting) >= PREFETCH:
            self.flush()
        elif len(self._waiting) == 1:
            self._later(self.flush)

    def flush(self) -> None:
        """Take all that wait, in one commit for each tenant."""
        waiting, self._waiting = self._waiting, []
        sound: list[tuple[Any, str, bytes]] = []
        for message in waiting:
            body = _bytes_of(message)
            try:
                sound.append((message, _tenant_of(message, body), body))
            except PermanentError as error:
                self._bury(message, body, error.code)
        if not sound:
            return
        try:
            verdicts = self._inlet.take([(tenant, body) for _, tenant, body in sound])
        except TransientError:
            self._give_back([message for message, _, _ in sound])
            return
        for (message, _, body), wrong in zip(sound, verdicts, strict=True):
            if wrong is None:
                _answered(message.ack)
            else:
                self._bury(message, body, wrong.code)

    def _bury(self, message: Any, body: bytes, why: str) -> None:
        try:
            self._inlet.bury(why=why, body=body)
        except TransientError:
            self._give_back([message])
            return
        _log.warning("dead message", why=why)
        if self._dead_letters:
            _answered(partial(message.reject, requeue=False))
            return
        _publish_dead(message, body, why)
        _answered(message.ack)

    def _give_back(self, messages: Sequence[Any]) -> None:
        self._pause(_PAUSE)
        for message in messages:
            _answered(message.requeue)


def _answered(answer: Callable[[], object]) -> None:
    """Tell the broker; a connection that is gone meanwhile delivers again, which is harmless."""
    try:
        answer()
    except Exception as error:  # each transport has errors of its own
        _log.info("message not answered", why=type(error).__name__)


def _tenant_of(message: Any, body: bytes) -> str:
    """Raises: PermanentError for what need not even be parsed."""
    key = str((message.delivery_info or {}).get("routing_key") or "")
    if len(body) > LONGEST_BODY:
        raise PermanentError("larger than 1 MiB", code="too_large")
    if (message.headers or {}).get("compression"):
        raise PermanentError("compressed", code="compressed")
    content_type = str(message.content_type or "").split(";", 1)[0].strip().lower()
    if content_type not in _JSON and content_type not in _UNTOLD:
        raise PermanentError("neither JSON nor CloudEvents", code="content_type")
    if not (match := _KEY.fullmatch(key)):
        raise PermanentError("the routing key is not auth0.<tenant>.<trigger>", code="routing_key")
    return match["tenant"]


def _bytes_of(message: Any) -> bytes:
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body)


def _publish_dead(message: Any, body: bytes, why: str) -> None:
    producer = message.channel.connection.client.Producer(message.channel)
    transport = message.channel.connection.client.transport.driver_type
    producer.publish(
        body[:LONGEST_BODY],
        exchange=dead_queue(transport).exchange,
        routing_key=DEAD_QUEUE,
        declare=[dead_queue(transport)],
        content_type="application/octet-stream",
        content_encoding="binary",
        headers={"why": why},
    )


class EventConsumer(ConsumerMixin):
    """A process, or a thread, of its own that consumes and reconnects for ever."""

    def __init__(self, connection: Connection, inlet: Inlet) -> None:
        self.connection = connection
        self._stopping = threading.Event()
        self._messages = messages_for(connection, inlet, pause=self._stopping.wait)

    def get_consumers(self, consumer: Any, channel: Any) -> list[Consumer]:
        return consumers(channel, self._messages)

    def stop(self) -> None:
        """End after the message in hand."""
        self._stopping.set()
        self.should_stop = True


def messages_for(
    connection: Connection,
    inlet: Inlet,
    *,
    pause: Callable[[float], object],
    later: Callable[[Callable[[], None]], object] | None = None,
) -> EventMessages:
    return EventMessages(inlet, _is_rabbitmq(connection.transport.driver_type), pause, later)


def consumers(channel: Any, messages: EventMessages) -> list[Consumer]:
    """The consumer of raw events on `channel`, its queues declared.

    `on_message` takes the message before kombu would decode it: no body is ever deserialised.
    """
    transport = channel.connection.client.transport.driver_type
    dead_queue(transport)(channel).declare()
    return [
        Consumer(
            channel,
            queues=[events_queue(transport)],
            on_message=messages.on_message,
            prefetch_count=PREFETCH,
            accept=["json"],
        )
    ]


def consumer_step(inlet: Callable[[], Inlet]) -> type[bootsteps.ConsumerStep]:
    """A bootstep for a Celery worker: `app.steps["consumer"].add(consumer_step(inlet))`.

    The callback runs on the worker's own loop: it validates, stores and acks, nothing else.
    """

    class RawEvents(bootsteps.ConsumerStep):
        own: Connection | None = None  # where publishers do not see what Celery sees

        def get_consumers(self, channel: Any) -> Iterable[Consumer]:
            connection = channel.connection.client
            waiting = threading.Event()
            hub = get_event_loop()  # of this worker; None with the brokers made of files
            later = partial(hub.call_later, _GATHER) if hub is not None else None
            if (seen := as_others_see(connection)) is not connection:
                channel.close()
                self.own = seen
                # a loss of it ends the worker's consumer like that of its own, and begins both anew
                seen.transport.register_with_event_loop(seen.connection, hub)
                channel = seen.channel()
            messages = messages_for(seen, inlet(), pause=waiting.wait, later=later)
            return consumers(channel, messages)

        def _close(self, c: Any, cancel_consumers: bool = True) -> None:
            super()._close(c, cancel_consumers)
            if self.own is not None:
                bootsteps.ignore_errors(self.own, self.own.release)
                self.own = None

    return RawEvents


class NoticePublisher:
    """Notices out: a topic exchange whose bindings are the apps' own business."""

    EXCHANGE = "evergrant.notices"

    def __init__(self, connection: Callable[[], Connection]) -> None:
        """`connection` opens one; it is kept, and opened again after a failure."""
        self._open = connection
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def __call__(self, routing_key: str, body: bytes) -> None:
        """Returns once the broker has it. Raises: TransientError."""
        with self._lock:
            try:
                self._publish(routing_key, body)
            except Exception as error:  # each transport has errors of its own
                self.close()
                raise TransientError(
                    f"broker: {type(error).__name__}", code="broker_away"
                ) from None

    def _publish(self, routing_key: str, body: bytes) -> None:
        if self._connection is None:
            self._connection = as_others_see(self._open())
        self._connection.ensure_connection(max_retries=1, timeout=5)
        exchange = Exchange(self.EXCHANGE, type="topic", durable=True)
        self._connection.Producer().publish(
            body,
            exchange=exchange,
            declare=[exchange],  # Redis has no exchanges: each producer must know the type
            routing_key=routing_key,
            content_type="application/cloudevents+json",
            content_encoding="utf-8",
            delivery_mode=2,
            timeout=5,
        )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.release()
            self._connection = None
