"""How an answer travels: whole, late, in pieces, cut, or not at all.

A server that misbehaves below HTTP needs the socket. `Protocol` lends it to the application in the
scope; `Delivery` says what is done with it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from http import HTTPStatus
from typing import cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

TRANSPORT = "evergrant.transport"


class Protocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 protocol, with its transport shown to the application."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(Scope, self.scope)["extensions"] = {TRANSPORT: self.transport}


class Unanswered(Response):
    """The application has done with the socket what it wanted; nothing more is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


def transport_of(request: Request) -> asyncio.Transport:
    return cast(asyncio.Transport, request.scope["extensions"][TRANSPORT])


def raw(response: Response) -> bytes:
    """The answer as bytes, as it would leave."""
    phrase = HTTPStatus(response.status_code).phrase
    head = [f"HTTP/1.1 {response.status_code} {phrase}".encode()]
    head += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*head, b"", bytes(response.body)])


async def hold(request: Request) -> Response:
    """Say nothing until the client gives up."""
    return Unanswered()


async def drop(request: Request) -> Response:
    """Close in good order without a byte."""
    transport_of(request).close()
    return Unanswered()


async def reset(request: Request) -> Response:
    """End the connection by RST."""
    transport = transport_of(request)
    sock = transport.get_extra_info("socket")
    linger = struct.pack("ii", 1, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
    return Unanswered()


async def cut(request: Request, response: Response, at: int) -> Response:
    """Send the first `at` bytes of the answer (headers count), then close."""
    transport = transport_of(request)
    transport.write(raw(response)[:at])
    transport.close()
    return Unanswered()


async def trickle(request: Request, response: Response, every: float) -> Response:
    """One byte each `every` seconds."""
    transport = transport_of(request)
    for at, byte in enumerate(raw(response)):
        if at:
            await asyncio.sleep(every)
        if transport.is_closing():
            break
        transport.write(bytes([byte]))
    transport.close()
    return Unanswered()
