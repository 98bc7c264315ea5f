"""The web role's HTTP server: uvicorn, with bounds on what a stranger's connection may take.

By itself uvicorn reads a request's head however long it is and whenever it comes: one stranger who
sends header after header fills the memory, and one who sends none keeps a file open for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 64 * 1024  # bytes of address and headers, trailers too
PATIENCE = 30.0  # seconds for a whole request; the doors bound what they read by themselves


class BoundedProtocol(HttpToolsProtocol):
    """Answers 400 to a longer head, and closes where no whole request comes."""

    patience = PATIENCE
    _timer: asyncio.TimerHandle | None = None
    _head = 0  # bytes of address and headers of this request
    _unparsed = 0  # bytes that the parser holds: no piece of a request has come of them yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > LONGEST_HEAD + len(data) and not self.transport.is_closing():
            self.send_400_response("Request head too large.")
        if self._is_idle():
            self._await_request()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = self._unparsed = 0
        self._await_request()

    def on_url(self, url: bytes) -> None:
        self._taken(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._taken(len(name) + len(value))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self._stop_waiting()
        super().on_message_complete()

    def _taken(self, length: int) -> None:
        self._unparsed = 0
        self._head += length
        if self._head > LONGEST_HEAD:
            raise ValueError("request head too large")  # the parser ends there: 400

    def _await_request(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.patience, self._is_it_there)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_it_there(self) -> None:
        self._timer = None
        if self.timeout_keep_alive_task is not None or self.transport.is_closing():
            return  # between requests, which uvicorn bounds
        if self._is_idle():
            self.transport.abort()
        else:
            self._await_request()  # one is being answered: its own limits hold

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


OPTIONS: dict[str, Any] = {
    "http": BoundedProtocol,
    "ws": "none",  # its handshake would log the address, with user id and query
    "log_config": None,
    "access_log": False,  # paths carry user ids
    "lifespan": "on",  # "auto" would swallow a failed start
    "server_header": False,
    "timeout_keep_alive": 65,
    "timeout_graceful_shutdown": 15,
}
"""What the web role gives to `uvicorn.run`, besides where to listen."""
