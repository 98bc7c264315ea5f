"""The Events API: `GET /api/v2/events` over Server-Sent Events.

Source: https://auth0.com/docs/customize/events/consume-events-with-events-api. A message's `id` is
an opaque offset; markers of progress come as `offset-only`; the server closes after a while.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from .records import Record

_LOOK_EVERY = 0.02  # seconds


@dataclass(slots=True)
class EventLog:
    """What happened, followed by offset.

    Args:
        keep: events that can still be read; older offsets are answered 410.
        connections: how many may follow at once; one more is answered 429.
        open_for: seconds until a connection is closed.
        marker_every: seconds between markers.
    """

    clock: Callable[[], float]
    keep: int = 10_000
    connections: int = 1
    open_for: float = 60.0
    marker_every: float = 1.0
    served: int = 0
    _first: int = 0  # serial of the oldest event kept
    _open: int = 0
    _kept: list[tuple[float, Record]] = field(default_factory=list)

    def write(self, event: Record) -> None:
        self._kept.append((self.clock(), event))
        if (over := len(self._kept) - self.keep) > 0:
            del self._kept[:over]
            self._first += over

    def forget(self) -> None:
        """Every offset given so far expires."""
        self._first += len(self._kept) + 1
        self._kept.clear()

    def answer(self, request: Request) -> Response:
        """A stream that goes on, or why there is none."""
        if self._open >= self.connections:
            return _problem(
                429, "Too Many Requests", "too_many_connections", **{"retry-after": "1"}
            )
        try:
            start = self._start(request)
        except ValueError:
            return _problem(400, "Bad Request", "invalid_cursor")
        if start < self._first:
            return _problem(410, "Gone", "cursor_expired")
        self.served += 1
        types = frozenset(request.query_params.getlist("event_type"))
        return StreamingResponse(self._messages(start, types), media_type="text/event-stream")

    def _start(self, request: Request) -> int:
        """Raises: ValueError, as `int` and `fromisoformat` do."""
        query = request.query_params
        offset = request.headers.get("last-event-id") or query.get("from")
        if offset:
            return _serial(offset)
        if moment := query.get("from_timestamp"):
            since = datetime.fromisoformat(moment).timestamp()
            before = sum(at < since for at, _ in self._kept)
            return self._first + before
        return self._end

    @property
    def _end(self) -> int:
        return self._first + len(self._kept)

    async def _messages(self, start: int, types: frozenset[str]) -> AsyncIterator[str]:
        self._open += 1
        loop = asyncio.get_running_loop()
        ends, marked = loop.time() + self.open_for, loop.time()
        try:
            yield ":connected\n\nretry: 20\n\n"
            while loop.time() < ends:
                if start < self._first:
                    yield 'event: error\ndata: {"code":"cursor_expired","message":"gone"}\n\n'
                    return
                for _, event in self._kept[start - self._first :]:
                    start += 1
                    if not types or event["type"] in types:
                        yield _message(event["type"], start, {"event": event})
                if loop.time() - marked >= self.marker_every:
                    marked = loop.time()
                    yield _message("offset-only", start, {}) + ": heartbeat\n\n"
                await asyncio.sleep(_LOOK_EVERY)
        finally:
            self._open -= 1


def _message(type_: str, serial: int, data: Record) -> str:
    offset = _offset(serial)
    body = json.dumps({"offset": offset, **data})
    return f"event: {type_}\nid: {offset}\ndata: {body}\n\n"


def _offset(serial: int) -> str:
    return base64.urlsafe_b64encode(f"{serial:012d}".encode()).decode()


def _serial(offset: str) -> int:
    return int(base64.urlsafe_b64decode(offset))


def _problem(status: int, error: str, code: str, **headers: str) -> Response:
    body = {"statusCode": status, "error": error, "message": error, "errorCode": code}
    return JSONResponse(body, status, headers=headers)
