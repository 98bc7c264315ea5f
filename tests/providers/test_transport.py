"""Every way in which a conversation with a token endpoint can break, and what is said of it.

"Not sent" must be sure, because the refresh token may then be spent elsewhere; "uncertain" must
be said whenever a byte may have arrived; an answer must be kept even where it broke off.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import gzip
import socket
import sys
import threading
import time
import zlib

import httpx
import msgspec
import pytest

from tests.providers import wire
from tests.providers.wire import BODY, Authority, Peer, Server, http, serving
from worker.domain.exchange import Answered, NotSent, Outcome, Uncertain
from worker.providers import HttpTokenEndpoint
from worker.providers.answer import BODY_LIMIT, Answer
from worker.providers.connection import MaybeSentError, SurelyNotSentError
from worker.providers.transport import TokenTransport


@pytest.fixture(params=["plain", "tls"])
async def endpoint(request, tmp_path, monkeypatch):
    """Whatever may go wrong goes wrong over TLS as well, and is told in the same words."""
    transport = TokenTransport(allow_loopback=True)
    if request.param == "tls":
        authority = Authority.create()
        context = authority.serve_as(tmp_path, "localhost")
        secured = functools.partial(wire.serving, context=context, name="localhost")
        monkeypatch.setattr(sys.modules[__name__], "serving", secured)
        transport = TokenTransport(allow_loopback=True, ssl_context=authority.trust())
    endpoint = HttpTokenEndpoint(allow_loopback=True, transport=transport)
    yield endpoint
    await endpoint.close()


async def ask(
    endpoint: HttpTokenEndpoint, server: Server, *, gate=lambda: True, patience=2.0
) -> Outcome:
    return await endpoint.exchange(server.wire(), gate=gate, read_timeout=patience)


def answering(*answers: bytes):
    """A script: each request of a connection gets the next answer, then the connection ends."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            if not await peer.request():
                return
            await peer.say(answer)

    return script


async def test_an_answer_comes_back_whole(endpoint):
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.say(http(BODY, "400 Bad Request", "Retry-After: 5"))

    async with serving(script) as server:
        outcome = await ask(endpoint, server)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.body, outcome.cut) == (400, BODY, False)
    assert outcome.headers["retry-after"] == "5"
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /token HTTP/1.1"
    assert f"host: {server.name}:{server.port}".encode() in head
    assert body == b"grant_type=refresh_token&refresh_token=r1"


async def test_nobody_listening_is_not_sent(endpoint):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server = Server(port=unused.getsockname()[1])
    assert await ask(endpoint, server) == NotSent(reason="connect")


async def test_a_connection_that_never_comes_about_is_not_sent():
    async def endless(name: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    transport = TokenTransport(allow_loopback=True, resolve=endless, connect_timeout=0.05)
    endpoint = HttpTokenEndpoint(allow_loopback=True, transport=transport)
    assert await ask(endpoint, Server(port=1)) == NotSent(reason="connect")


async def test_a_closed_gate_lets_no_byte_out(endpoint):
    arrived = []

    async def script(peer: Peer) -> None:
        arrived.append(await peer.reader.read(1))

    async with serving(script) as server:
        assert await ask(endpoint, server, gate=lambda: False) == NotSent(reason="gate")
        await asyncio.sleep(0.05)
        assert server.connections == 1, "the gate is asked after the connection stands"
        await endpoint.close()
        await asyncio.sleep(0.05)
    assert arrived == [b""]


BROKEN = {
    "closed before the answer": (b"", False, "reset"),
    "reset before the answer": (b"", True, "reset"),
    "closed in the status line": (b"HTTP/1.1 20", False, "reset"),
    "closed in the headers": (b"HTTP/1.1 200 OK\r\ncontent-le", False, "reset"),
    "closed before the body": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", False, "cut"),
    "reset in the body": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", True, "cut"),
    "closed in a chunk": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        False,
        "cut",
    ),
    "reset where only the end tells the length": (b"HTTP/1.1 200 OK\r\n\r\nab", True, "cut"),
    "not http": (b"SSH-2.0-OpenSSH_9.2\r\n", False, "protocol"),
    "http 0.9": (b"<html>hello</html>", False, "protocol"),
    "lengths that disagree": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        False,
        "protocol",
    ),
    "a negative length": (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", False, "protocol"),
    "upgrade": (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        False,
        "protocol",
    ),
    "1xx flood": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100, False, "protocol"),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, False, "protocol"),
    "one endless header": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 500_000, False, "protocol"),
}


@pytest.mark.parametrize(("answer", "reset", "reason"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_is_uncertain(endpoint, answer, reset, reason):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(answer)
        if reset:
            await asyncio.sleep(0.02)
            peer.reset()

    async with serving(script) as server:
        outcome = await ask(endpoint, server)
    assert outcome == Uncertain(reason=reason)


async def test_an_answer_cut_at_each_byte_is_uncertain_or_kept_never_lost(endpoint):
    """Once the successor has arrived in full it is kept, though the answer is not whole."""
    answer = http()
    known_from = answer.index(b'"r2"') + 4
    for end in range(len(answer)):
        async with serving(answering(answer[:end])) as server:
            outcome = await ask(endpoint, server)
        if end < known_from:
            assert isinstance(outcome, Uncertain), end
        else:
            assert isinstance(outcome, Answered), end
            assert outcome.cut
            assert b'"refresh_token":"r2"' in outcome.body


async def test_a_request_that_the_server_never_reads_is_uncertain(endpoint):
    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(1)
        peer.reset()

    async with serving(script) as server:
        assert await ask(endpoint, server) == Uncertain(reason="reset")


async def test_a_silent_server_is_uncertain_after_the_read_timeout(endpoint):
    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(5)

    async with serving(script) as server:
        assert await ask(endpoint, server, patience=0.05) == Uncertain(reason="timeout")


async def test_a_slow_drip_does_not_outlast_the_read_timeout(endpoint):
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in http():
            await peer.say(bytes([byte]))
            await asyncio.sleep(0.01)

    async with serving(script) as server:
        began = asyncio.get_running_loop().time()
        assert await ask(endpoint, server, patience=0.2) == Uncertain(reason="timeout")
        assert asyncio.get_running_loop().time() - began < 2


async def test_an_answer_in_single_bytes_is_read(endpoint):
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in http():
            await peer.say(bytes([byte]))
            await asyncio.sleep(0)

    async with serving(script) as server:
        outcome = await ask(endpoint, server)
    assert isinstance(outcome, Answered)
    assert outcome.body == BODY


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(
    b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:])
)
FRAMED = {
    "chunked": (CHUNKED + b"0\r\n\r\n", BODY),
    "chunked, trailers": (CHUNKED + b"0\r\nx-t: y\r\n\r\n", BODY),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, BODY),
    "http 1.0": (b"HTTP/1.0 200 OK\r\n\r\n" + BODY, BODY),
    "hints first": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\na: b\r\n\r\n" + http(), BODY),
    "junk behind it": (http(b"access_token=a") + b"junk", b"access_token=a"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "gzip": (http(gzip.compress(BODY), "200 OK", "content-encoding: gzip"), BODY),
    "deflate": (http(zlib.compress(BODY), "200 OK", "content-encoding: deflate"), BODY),
    "gzip, garbage": (http(b"garbage", "200 OK", "content-encoding: gzip"), b""),
}


@pytest.mark.parametrize(("answer", "body"), FRAMED.values(), ids=FRAMED)
async def test_an_answer_is_read_however_it_is_framed(endpoint, answer, body):
    async with serving(answering(answer)) as server:
        outcome = await ask(endpoint, server)
    assert isinstance(outcome, Answered)
    assert outcome.body == body


OVERSIZE = {
    "ten megabytes": (lambda: http(b"{" + b" " * 10_000_000), b"{"),
    "a gzip bomb": (
        lambda: http(gzip.compress(b"{" + b" " * 50_000_000), "200 OK", "content-encoding: gzip"),
        b"{",
    ),
}


@pytest.mark.parametrize(("answer", "begins"), OVERSIZE.values(), ids=OVERSIZE)
async def test_an_answer_too_large_is_cut_and_its_connection_closed(endpoint, answer, begins):
    data = answer()
    async with serving(answering(data, http())) as server:
        outcome = await ask(endpoint, server)
        assert isinstance(outcome, Answered)
        assert outcome.cut
        assert len(outcome.body) <= BODY_LIMIT
        assert outcome.body.startswith(begins)


async def test_a_redirect_is_an_answer_and_nothing_follows_it(endpoint):
    async with serving(answering(http())) as elsewhere:
        location = f"location: http://127.0.0.1:{elsewhere.port}/token"
        redirect = http(b"", "307 Temporary Redirect", location)
        async with serving(answering(redirect)) as server:
            outcome = await ask(endpoint, server)
        assert elsewhere.connections == 0
    assert isinstance(outcome, Answered)
    assert outcome.status == 307


async def test_cookies_are_not_kept(endpoint):
    seen = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            seen.append(await peer.request())
            await peer.say(http(BODY, "200 OK", "set-cookie: a=b"))

    async with serving(script) as server:
        await ask(endpoint, server)
        await ask(endpoint, server)
    assert b"cookie" not in seen[1].lower()


async def test_a_proxy_of_the_environment_is_not_asked(endpoint, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with serving(answering(http())) as server:
        assert isinstance(await ask(endpoint, server), Answered)


async def test_a_connection_is_used_again_one_exchange_at_a_time(endpoint):
    async with serving(answering(*[http()] * 5)) as server:
        for _ in range(3):
            assert isinstance(await ask(endpoint, server), Answered)
        assert server.connections == 1
        await asyncio.gather(ask(endpoint, server), ask(endpoint, server))
        assert server.connections == 2


async def test_what_was_answered_is_not_kept_for_the_next_collection(endpoint):
    """It holds tokens; and a worker that collects seldom held thousands."""
    gc.collect()
    gc.disable()
    try:
        async with serving(answering(http(), http(status="400 Bad Request"))) as server:
            assert isinstance(await ask(endpoint, server), Answered)
            assert isinstance(await ask(endpoint, server), Answered)
            assert server.connections == 1
            await asyncio.sleep(0)  # the loop holds what it has just handed over
            assert not [one for one in gc.get_objects() if isinstance(one, Answer)]
    finally:
        gc.enable()


async def test_a_connection_that_the_server_has_left_is_not_written_to(endpoint):
    """Half-dead keep-alive: the close has arrived, the loop has not yet looked at it."""
    async with serving(answering(http())) as server:
        assert isinstance(await ask(endpoint, server), Answered)
        await asyncio.sleep(0.05)
        assert isinstance(await ask(endpoint, server), Answered)
        assert server.connections == 2


async def test_a_close_that_the_loop_has_not_seen_yet_is_seen_before_the_write(endpoint):
    """The busiest moment of a worker is when the loop is behind with its reading."""
    connections = []

    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            connections.append(connection.recv(65536))
            connection.sendall(http())
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)
        server = Server(port=listening.getsockname()[1])
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        first = await ask(endpoint, server)
        time.sleep(0.1)  # the loop stands still, the close arrives
        second = await ask(endpoint, server)
        thread.join()
    assert isinstance(first, Answered)
    assert isinstance(second, Answered)
    assert len(connections) == 2


async def test_an_idle_connection_is_closed_after_a_few_seconds():
    transport = TokenTransport(allow_loopback=True, keepalive=0.05)
    endpoint = HttpTokenEndpoint(allow_loopback=True, transport=transport)
    async with serving(answering(http(), http())) as server:
        await ask(endpoint, server)
        await asyncio.sleep(0.15)
        await ask(endpoint, server)
        assert server.connections == 2
    await endpoint.close()


NOT_KEPT = {
    "the server closes": http(BODY, "200 OK", "connection: close"),
    "a second answer nobody asked for": http() + http(b'{"access_token":"someone else"}'),
}


@pytest.mark.parametrize("answer", NOT_KEPT.values(), ids=NOT_KEPT)
async def test_a_connection_with_something_wrong_is_not_used_again(endpoint, answer):
    async with serving(answering(answer, http())) as server:
        first = await ask(endpoint, server)
        assert isinstance(first, Answered)
        assert first.body == BODY
        second = await ask(endpoint, server)
        assert isinstance(second, Answered)
        assert second.body == BODY
        assert server.connections == 2


async def test_a_connection_that_spoke_unasked_is_not_used_again(endpoint):
    """What it said could be taken for the answer to the next question."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(http())
        await asyncio.sleep(0.02)
        await peer.say(http(b'{"access_token":"someone else"}'))
        await peer.request()

    async with serving(script) as server:
        await ask(endpoint, server)
        await asyncio.sleep(0.08)
        outcome = await ask(endpoint, server)
        assert isinstance(outcome, Answered)
        assert outcome.body == BODY
        assert server.connections == 2


async def test_a_request_for_another_host_than_the_pinned_one_is_not_sent(endpoint):
    async with serving(answering(http())) as server:
        request = msgspec.structs.replace(server.wire(), host="id.acme.example")
        outcome = await endpoint.exchange(request, gate=lambda: True, read_timeout=1)
        assert (outcome, server.connections) == (NotSent(reason="address"), 0)


async def test_a_cancelled_exchange_leaves_no_connection_behind(endpoint):
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.reader.read(1)
        gone.set()

    async with serving(script) as server:
        asking = asyncio.create_task(ask(endpoint, server))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(gone.wait(), 2)


def tls(authority: Authority) -> HttpTokenEndpoint:
    async def here(name: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    transport = TokenTransport(allow_loopback=True, ssl_context=authority.trust(), resolve=here)
    return HttpTokenEndpoint(allow_loopback=True, transport=transport)


async def test_tls_serves_by_name_and_keeps_the_connection(tmp_path):
    authority = Authority.create()
    context = authority.serve_as(tmp_path, "id.test.example")
    endpoint = tls(authority)
    async with serving(answering(*[http()] * 5), context) as server:
        for _ in range(3):
            outcome = await endpoint.exchange(
                server.wire("id.test.example"), gate=lambda: True, read_timeout=2
            )
            assert isinstance(outcome, Answered)
        assert server.connections == 1
    await endpoint.close()


BAD_CERTIFICATES = ["wrong name", "expired", "unknown authority", "no tls at all"]


@pytest.mark.parametrize("fault", BAD_CERTIFICATES)
async def test_a_certificate_that_does_not_hold_is_not_sent_to(tmp_path, fault):
    authority, other = Authority.create(), Authority.create()
    context = {
        "wrong name": lambda: authority.serve_as(tmp_path, "other.test.example"),
        "expired": lambda: authority.serve_as(tmp_path, "id.test.example", expired=True),
        "unknown authority": lambda: other.serve_as(tmp_path, "id.test.example"),
        "no tls at all": lambda: None,
    }[fault]()
    arrived, asked = [], []

    async def script(peer: Peer) -> None:
        arrived.append(await peer.reader.read(1000))
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(script, context) as server:
        server.scheme = "https"
        outcome = await tls(authority).exchange(
            server.wire("id.test.example"), gate=lambda: bool(asked.append(1)), read_timeout=2
        )
    assert outcome == NotSent(reason="tls")
    assert not asked, "the gate is asked after TLS"
    assert b"refresh_token" not in b"".join(arrived)


HANDSHAKES = {
    "closed": lambda peer: None,
    "reset": Peer.reset,
    "silent": lambda peer: asyncio.sleep(5),
}


@pytest.mark.parametrize("fault", HANDSHAKES.values(), ids=HANDSHAKES)
async def test_a_handshake_that_comes_to_nothing_is_not_sent(fault):
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        if waits := fault(peer):
            waits.close()
            while await peer.reader.read(1000):
                pass
        left.set()

    async def here(name: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    transport = TokenTransport(allow_loopback=True, resolve=here, connect_timeout=0.2)
    endpoint = HttpTokenEndpoint(allow_loopback=True, transport=transport)
    async with serving(script) as server:
        server.scheme, server.name = "https", "localhost"
        assert await ask(endpoint, server) == NotSent(reason="connect")
        await asyncio.wait_for(left.wait(), 2)


async def test_a_record_that_was_tampered_with_ends_the_exchange(tmp_path):
    """Between us and the server somebody changes one byte of the answer."""
    authority = Authority.create()
    context = authority.serve_as(tmp_path, "id.test.example")
    changes = False

    async def between(peer: Peer) -> None:
        nonlocal changes
        reader, writer = await asyncio.open_connection("127.0.0.1", behind.port)

        async def back() -> None:
            while data := await reader.read(65536):
                await peer.say(data[:-1] + bytes([data[-1] ^ changes]))

        answers = asyncio.create_task(back())
        while data := await peer.reader.read(65536):
            writer.write(data)
        answers.cancel()
        writer.close()

    script = answering(http(), http(), http())
    async with serving(script, context) as behind, serving(between) as server:
        server.scheme, server.name = "https", "id.test.example"
        endpoint = tls(authority)
        assert isinstance(await ask(endpoint, server), Answered)
        changes = True
        assert await ask(endpoint, server) == Uncertain(reason="protocol")
        await endpoint.close()


async def test_the_transport_serves_any_httpx_client():
    """It is httpx's own interface: the same truth, without our token endpoint around it."""
    async with serving(answering(http(BODY, "418 x"), b"HTTP")) as server:
        url = f"http://127.0.0.1:{server.port}/x?y=z"
        async with httpx.AsyncClient(transport=TokenTransport(allow_loopback=True)) as client:
            response = await client.post(url, data={"a": "b"})
            assert (response.status_code, response.json()["access_token"]) == (418, "a2")
            with pytest.raises(MaybeSentError) as broken:
                await client.post(url, data={"a": "b"})
            assert isinstance(broken.value, httpx.ReadError)
            with pytest.raises(SurelyNotSentError):
                await client.post("http://127.0.0.1:1/", data={"a": "b"})


async def test_an_exception_carries_no_request():
    """Somebody will log it, with everything that hangs on it."""
    async with serving(answering(b"")) as server:
        transport = TokenTransport(allow_loopback=True)
        request = httpx.Request("POST", f"http://127.0.0.1:{server.port}/", content=b"secret")
        with pytest.raises(MaybeSentError) as broken:
            await transport.handle_async_request(request)
    with pytest.raises(RuntimeError):
        _ = broken.value.request


async def test_a_transport_that_may_not_know_is_not_believed():
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("says it was not sent")

    endpoint = HttpTokenEndpoint(allow_loopback=True, transport=httpx.MockTransport(refuse))
    outcome = await endpoint.exchange(Server(port=1).wire(), gate=lambda: True, read_timeout=1)
    assert outcome == Uncertain(reason="protocol")


@pytest.mark.parametrize("value", ["Привет", "a\r\nb: c", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_no_header_can_hold_is_surely_not_sent(value):
    """The catalogue refuses these before; the transport does not rely on it."""
    wire = msgspec.structs.replace(Server(port=1).wire(), headers={"x-name": value})
    endpoint = HttpTokenEndpoint(allow_loopback=True)
    outcome = await endpoint.exchange(wire, gate=lambda: True, read_timeout=1)
    assert outcome == NotSent(reason="header")
