"""What one connection may take of the web role's server before anybody knows who it is."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from worker.cli.http_server import LONGEST_HEAD, OPTIONS, BoundedProtocol

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def _length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def _at_once(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("unread")


class Impatient(BoundedProtocol):
    patience = 0.3


@pytest.fixture
def port() -> Iterator[int]:
    app = Starlette(routes=[Route("/", _length, methods=["GET", "POST"]), Route("/now", _at_once)])
    told = {**OPTIONS, "http": Impatient, "lifespan": "off"}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, **told))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def said(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that is answered before the server closes, or b"open" behind it if it does not."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as wire:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                wire.sendall(piece)
                time.sleep(pause)
        try:
            while more := wire.recv(65536):
                answer += more
        except ConnectionResetError:
            pass
        except TimeoutError:
            answer += b"open"
    return answer


def test_an_honest_request_is_answered_and_its_connection_kept(port: int) -> None:
    body = b"x" * 3_000_000
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = said(port, post, body, GET + b"Cookie: " + b"c" * 60_000 + b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.endswith(b"open")


@pytest.mark.parametrize(
    "pieces",
    [
        [GET, *[b"X: y\r\n" * 1000] * 100],
        [GET + b"X: ", *[b"y" * 10_000] * 100],
        [b"GET /", *[b"y" * 10_000] * 100],
        [b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"]
        + [b"X: y\r\n" * 1000] * 100,
        [b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "]
        + [b"y" * 10_000] * 100,
        [b"\r\n" * 10_000] * 100,
    ],
    ids=["headers", "one header", "address", "trailers", "one trailer", "empty lines"],
)
def test_a_head_without_end_is_cut_off(port: int, pieces: list[bytes]) -> None:
    assert sum(map(len, pieces)) > 4 * LONGEST_HEAD
    assert b"open" not in said(port, *pieces)


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [GET],
        [GET + b"\r\n", b"GET"],
        [GET + b"\r\n", b"\r\n"],
        [b"GET /now HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"x"],
    ],
    ids=["nothing", "half a head", "half a second head", "an empty line", "half an unread body"],
)
def test_who_sends_no_whole_request_is_not_waited_for(port: int, pieces: list[bytes]) -> None:
    assert b"open" not in said(port, *pieces, pause=0.05)


def test_no_address_comes_into_the_log_by_a_websocket(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")  # the log of requests is off elsewhere
    upgrade = (
        b"GET /users/google-oauth2%7Crosa?token=x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    assert said(port, upgrade)
    lines = [one.getMessage() for one in caplog.records if one.name == "uvicorn.error"]
    assert not [line for line in lines if "rosa" in line]
