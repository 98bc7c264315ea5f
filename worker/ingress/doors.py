"""The three webhook endpoints.

    POST /hooks/auth0/{tenant}/logs      log stream
    POST /hooks/auth0/{tenant}/events    event stream
    POST /hooks/auth0/{tenant}/actions   the Action that we ship

202 {"accepted","duplicate","ignored"} once what matters is durable. 401 alike for an unknown
tenant, a door without a secret, and a wrong secret. 413 beyond the size limit, which is far above
anything Auth0 sends; its beginning is kept for a human. 503 when neither store nor spool can take
it, or the body did not come in time: both kinds of stream send again. Nothing else: an event that
Auth0 had a right to send is never answered 4xx, because event streams then drop it for good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.routing import Route

from worker.domain.errors import TransientError
from worker.domain.event import Source
from worker.domain.ports import Offload
from worker.events import Intake
from worker.events.accept import Counts
from worker.ingress.authentication import NOBODY, Headers, TenantDoors, admitted, signed_id
from worker.ingress.receiving import (
    GoneError,
    Receive,
    TooLargeError,
    TooSlowError,
    body_of,
    unpacked,
)
from worker.monitoring.logs import logger

_log = logger(__name__)

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one request, and all of them together, may take."""

    body: int = 16 * 1024 * 1024  # bytes, before and after unpacking
    signed_body: int = 256 * 1024  # read before anything is proven; our Action sends 1 KiB
    seconds: float = 20.0  # for the body to arrive
    requests: int = 256  # bodies in hand at once; as many again of senders not proven yet


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


def _problem(status: int, title: str, *more: tuple[bytes, bytes]) -> _Answer:
    body = msgspec.json.encode({"type": "about:blank", "title": title, "status": status})
    return _Answer(status, body, ((b"content-type", b"application/problem+json"), *more))


_AGAIN = (b"retry-after", b"5")
_REFUSED = _problem(401, "Not authorised", (b"www-authenticate", b"Bearer"))
_TOO_LARGE = _problem(413, "Body too large", (b"connection", b"close"))
_TOO_SLOW = _problem(503, "The body did not arrive in time", _AGAIN, (b"connection", b"close"))
_AWAY = _problem(503, "Nothing durable can take this now", _AGAIN)
_BUSY = _problem(503, "Too many deliveries at once", _AGAIN, (b"connection", b"close"))


def routes(
    *,
    intake: Intake,
    tenants: Mapping[str, TenantDoors],
    offload: Offload,
    bounds: Bounds | None = None,
) -> list[Route]:
    """The endpoints as Starlette routes, for the web application to mount."""
    hall = _Hall(intake, tenants, offload, bounds or Bounds())
    return [
        Route(f"/hooks/auth0/{{tenant}}/{source}", door, methods=["POST"], name=f"hook_{source}")
        for source, door in (
            ("logs", _Door(hall, Source.LOGS)),
            ("events", _Door(hall, Source.EVENTS)),
            ("actions", _SignedDoor(hall, Source.ACTIONS)),
        )
    ]


class _Hall:
    """What the doors share."""

    def __init__(
        self,
        intake: Intake,
        tenants: Mapping[str, TenantDoors],
        offload: Offload,
        bounds: Bounds,
    ) -> None:
        self.intake = intake
        self.tenants = tenants
        self.offload = offload
        self.bounds = bounds
        # Apart, or a stranger who lets bodies drip would keep the known senders out.
        self.known, self.strangers = _Room(bounds.requests), _Room(bounds.requests)


@dataclass(slots=True)
class _Room:
    """Bodies in hand at once."""

    most: int
    inside: int = 0


class _Door:
    """An endpoint whose sender shows a header: known before a byte of the body is read."""

    def __init__(self, hall: _Hall, source: Source) -> None:
        self._hall = hall
        self._source = source
        self._room = hall.known

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        room = self._room
        if room.inside >= room.most:
            await _send(send, _BUSY)
            return
        room.inside += 1
        try:
            await _send(send, await self._answer(scope, receive))
        except GoneError:
            return
        finally:
            room.inside -= 1

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> _Answer:
        tenant, headers = scope["path_params"]["tenant"], scope["headers"]
        doors = self._hall.tenants.get(tenant, NOBODY)
        secrets = doors.logs if self._source is Source.LOGS else doors.events
        if not admitted(secrets or NOBODY.logs, headers):
            return _REFUSED
        try:
            body = await self._body(receive, headers, self._hall.bounds.body)
        except TooLargeError as error:
            return await self._oversized(tenant, error.start)
        except TooSlowError:
            return _TOO_SLOW
        return await self._taken(tenant, body)

    async def _body(self, receive: Receive, headers: Headers, limit: int) -> bytes:
        body = await body_of(receive, limit=limit, seconds=self._hall.bounds.seconds)
        for name, value in headers:
            if name == b"content-encoding":
                return unpacked(body, value, limit=limit)
        return body

    async def _taken(self, tenant: str, body: bytes, delivery_id: str | None = None) -> _Answer:
        hall = self._hall
        try:
            counts = await hall.intake.receive(
                tenant, self._source, body, offload=hall.offload, delivery_id=delivery_id
            )
        except TransientError as error:
            _log.error("event_refused", tenant=tenant, source=self._source.value, why=error.code)
            return _AWAY
        return _Answer(202, _counted(counts))

    async def _oversized(self, tenant: str, start: bytes) -> _Answer:
        _log.error("body_too_large", tenant=tenant, source=self._source.value)
        try:
            await self._hall.offload(self._hall.intake.keep_oversized, tenant, self._source, start)
        except TransientError:
            return _AWAY
        return _TOO_LARGE


class _SignedDoor(_Door):
    """The endpoint of our Action, whose proof is a signature over the body."""

    def __init__(self, hall: _Hall, source: Source) -> None:
        super().__init__(hall, source)
        self._room = hall.strangers

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> _Answer:
        tenant, headers = scope["path_params"]["tenant"], scope["headers"]
        doors = self._hall.tenants.get(tenant, NOBODY)
        bounds = self._hall.bounds
        try:
            body = await body_of(receive, limit=bounds.signed_body, seconds=bounds.seconds)
        except TooLargeError:
            return _TOO_LARGE
        except TooSlowError:
            return _TOO_SLOW
        delivery_id = signed_id(doors.actions or NOBODY.actions, headers, body)
        if delivery_id is None:
            return _REFUSED
        return await self._taken(tenant, body, delivery_id)


def _counted(counts: Counts) -> bytes:
    return b'{"accepted":%d,"duplicate":%d,"ignored":%d}' % (
        counts.accepted,
        counts.duplicate,
        counts.ignored,
    )


async def _send(send: Send, answer: _Answer) -> None:
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
