"""The Events API: what an event stream would tell, read by us over Server-Sent Events.

Source: https://auth0.com/docs/customize/events/consume-events-with-events-api and the models of
auth0-python 6.8. Lines: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from worker.auth0.management import ManagementApi
from worker.domain import loose_json
from worker.domain.errors import TransientError

USERS = ("user.created", "user.updated", "user.deleted")
CONNECTIONS = ("connection.created", "connection.updated", "connection.deleted")
EXPIRED = "cursor_expired"  # the code of an offset that is too old
_SILENCE = 60.0  # seconds; heartbeats come more often
_LONGEST = 4 * 1024 * 1024  # bytes of one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message with an offset; without an event it only marks progress."""

    offset: str | None
    event: bytes | None = field(default=None, repr=False)  # JSON, left as it stands
    error: str | None = None  # a code: the stream ends here


async def follow(
    api: ManagementApi, *, types: Sequence[str], offset: str | None, since: datetime | None
) -> AsyncGenerator[Sequence[Message], None]:
    """What comes, in the pieces it comes in (a heartbeat is an empty one), until Auth0 closes.

    Begins after `offset`, else at `since`, else now. Needs read:events.
    Raises: TransientError; PermanentError, its code EXPIRED or http_410 for an offset too old.
    """
    params: dict[str, str | list[str]] = {"event_type": list(types)}
    headers = {"accept": "text/event-stream", "cache-control": "no-store"}
    if offset is not None:
        headers["last-event-id"] = offset
    elif since is not None:
        params["from_timestamp"] = since.isoformat().replace("+00:00", "Z")
    lines = _Lines()
    async with api.streaming("/events", params, headers, silence=_SILENCE) as answer:
        async for piece in answer.aiter_bytes():
            yield list(lines.taken(piece))


class _Lines:
    """Puts messages together from pieces that are cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._kind, self._id = "", ""
        self._data: list[bytes] = []

    def taken(self, piece: bytes) -> Iterator[Message]:
        """Raises: TransientError on a message that does not end."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) + sum(map(len, self._data)) > _LONGEST:
            raise TransientError("Events API: a message without end", code="unreadable_answer")
        for line in lines:
            if (stripped := line.rstrip(b"\r")) == b"":
                if message := self._message():
                    yield message
            else:
                self._field(stripped)

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._kind = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(value)

    def _message(self) -> Message | None:
        kind, data, offset = self._kind, b"\n".join(self._data), self._id or None
        self._kind, self._data = "", []
        if not kind and not data:
            return None
        told = _told(data)
        if kind == "error":
            error = told.error if isinstance(told.error, dict) else {}
            return Message(offset=offset, error=str(error.get("code") or told.code or "error"))
        if kind == "offset-only" or not data:
            return Message(offset=offset)
        event = bytes(told.event)
        return Message(offset=offset, event=data if event in (b"", b"null") else event)


class _Envelope(msgspec.Struct):
    """What comes around an event; without it the whole is the event."""

    event: msgspec.Raw = msgspec.Raw()
    error: Any = None
    code: Any = None


_NONSENSE = (msgspec.DecodeError, ValueError, RecursionError)
_envelope = msgspec.json.Decoder(_Envelope)


def _told(data: bytes) -> _Envelope:
    """Raises nothing: what cannot be read is handed on for a human to see, wrapped to be JSON."""
    try:
        return _envelope.decode(data)
    except _NONSENSE:
        pass
    try:
        return _envelope.decode(loose_json.mended(data))
    except _NONSENSE:
        wrapped = msgspec.json.encode({"unreadable": data.decode("utf-8", "replace")})
        return _Envelope(event=msgspec.Raw(wrapped))
