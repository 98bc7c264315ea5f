"""One exchange over HTTP/1.1, and the exact truth about it, behind httpx's transport interface.

A pool hides what the renewal protocol needs: when the bytes leave (the gate is asked right before
the write), whether they left at all, and that nobody else uses the connection meanwhile. So this
one is ours: httptools parses, one connection carries one exchange at a time, and an exchange ends
in an answer, in `SurelyNotSentError` or in `MaybeSentError`. Nothing is retried, no redirect
followed, no cookie kept, no proxy taken from the environment.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Callable, Iterable

import certifi
import httptools
import httpx

from worker.domain.errors import ConfigurationError
from worker.providers import addresses
from worker.providers.addresses import Resolve, SystemResolver, Target
from worker.providers.answer import Answer

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 120.0  # from the write to the last byte, where the caller says nothing
# A server closes idle connections after some seconds without telling; a POST that meets the close
# halfway is an ambiguity bought for a handshake saved.
KEEPALIVE = 3.0
IDLE_LIMIT = 256  # kept connections per host
INCOMING = 64 * 1024  # read from a socket at once


class SurelyNotSentError(httpx.ConnectError):
    """No byte of the request has left. Carries a reason and no request: that holds secrets."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MaybeSentError(httpx.ReadError):
    """Bytes have left and no whole answer came; `fragment` is what did come of one."""

    def __init__(self, reason: str, fragment: Answer | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fragment = fragment


class Connection(asyncio.BufferedProtocol):
    """One TCP or TLS connection; at most one exchange is under way on it.

    What arrives goes into `incoming`, which all connections of a loop share, and is copied from
    there at once: a plain protocol gets 256 KiB anew for each kilobyte that comes.
    """

    def __init__(self, incoming: bytearray) -> None:
        self._incoming = incoming
        self.closed = False
        self.idle_until = 0.0  # by the loop's clock, while it is kept; 0 while it is in use
        self._timer: asyncio.TimerHandle | None = None
        self._readable = select.poll()
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._done: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._incoming

    def buffer_updated(self, nbytes: int) -> None:
        if self._answer is None:
            self.abort()  # nobody asked
            return
        try:
            self._answer.feed(bytes(memoryview(self._incoming)[:nbytes]))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._answer.complete:
                self._fail("protocol")
            self.abort()
        if self._answer and (self._answer.complete or self._answer.cut):
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._forget_timer()
        if self._answer is None:
            return
        if exc is None:
            self._answer.closed()
        if self._answer.complete:
            self._finish()
        else:
            self._fail("cut" if self._answer.status else "reset")

    def is_fresh(self) -> bool:
        """Nothing has come in, no end of file either, even if the loop has not read it yet."""
        if self.closed or self._transport is None or self._transport.is_closing():
            return False
        return not self._readable.poll(0)

    def keep_for(self, seconds: float) -> None:
        """Close it by then, if it is not used before. One timer serves for many exchanges."""
        loop = asyncio.get_running_loop()
        self.idle_until = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_at(self.idle_until, self._look_at_the_time)

    def _look_at_the_time(self) -> None:
        self._timer = None
        if self.closed or not self.idle_until:
            return
        loop = asyncio.get_running_loop()
        if self.idle_until <= loop.time():
            self.abort()
        else:
            self._timer = loop.call_at(self.idle_until, self._look_at_the_time)

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Write at once; the future ends in an answer or in MaybeSentError."""
        assert self._transport is not None
        self._answer = Answer()
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def abort(self, reason: str = "reset") -> None:
        """Nothing still buffered may leave after this."""
        self.closed = True
        self._forget_timer()
        self._fail(reason)
        if self._transport:
            self._transport.abort()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if answer.cut or not answer.keep_alive:
            self.closed = True
            if self._transport:
                self._transport.abort()
        if self._done and not self._done.done():
            self._done.set_result(answer)

    def _fail(self, reason: str) -> None:
        answer, self._answer = self._answer, None
        if self._done and not self._done.done():
            fragment = answer if answer and answer.status else None
            self._done.set_exception(MaybeSentError(reason, fragment))


class TokenTransport(httpx.AsyncBaseTransport):
    """Of a request's extensions it honours `timeout` (httpx's), and of its own

    `gate`    asked at the write, after connect and TLS; False: not one byte leaves
    `target`  the checked address, where the caller has checked it
    """

    def __init__(
        self,
        *,
        allow_loopback: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        keepalive: float = KEEPALIVE,
    ) -> None:
        self._allow_loopback = allow_loopback
        self._ssl = ssl_context
        self._system_resolver = SystemResolver()
        self._resolve = resolve or self._system_resolver
        self._connect_timeout = connect_timeout
        self._keepalive = keepalive
        self._incoming = bytearray(INCOMING)
        self._idle: dict[tuple[str, str, int], deque[Connection]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises: SurelyNotSentError, MaybeSentError."""
        answer = await self.exchange(
            request.extensions.get("target") or self._checked(str(request.url)),
            method=request.method,
            headers=request.headers.raw,
            body=request.content,
            gate=request.extensions.get("gate", lambda: True),
            patience=request.extensions.get("timeout", {}).get("read") or READ_TIMEOUT,
        )
        content = answer.content()
        answer.headers.pop("content-encoding", None)
        extensions = {"cut": answer.cut}
        return httpx.Response(
            answer.status, headers=answer.headers, content=content, extensions=extensions
        )

    async def exchange(
        self,
        target: Target,
        *,
        method: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        gate: Callable[[], bool],
        patience: float,
    ) -> Answer:
        """The exchange itself: httpx's objects around it cost more than all the rest of it.

        Raises: SurelyNotSentError, MaybeSentError.
        """
        message = _serialised(method, target, headers, body)
        connection = self._take(target) or await self._connect(target)
        # From here to the write nothing waits: what the gate said is still true.
        if not gate():
            self._keep(target, connection)
            raise SurelyNotSentError("gate")
        if connection.closed:
            raise SurelyNotSentError("connect")
        answer = await self._answer(connection, connection.send(message), patience)
        self._keep(target, connection)
        return answer

    async def aclose(self) -> None:
        for kept in self._idle.values():
            for connection in kept:
                connection.abort()
        self._idle.clear()
        self._system_resolver.close()

    def _checked(self, url: str) -> Target:
        try:
            return addresses.target(url, approved_host=None, allow_loopback=self._allow_loopback)
        except ConfigurationError:
            raise SurelyNotSentError("address") from None

    async def _answer(
        self, connection: Connection, done: asyncio.Future[Answer], patience: float
    ) -> Answer:
        waiting = asyncio.get_running_loop().call_later(patience, connection.abort, "timeout")
        try:
            return await done
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            waiting.cancel()

    async def _connect(self, target: Target) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                found = await self._resolve(target.name, target.port)
                addresses.check_addresses(found, allow_loopback=self._allow_loopback)
                return await self._connect_to_one(target, found[:4])
        except ConfigurationError:
            raise SurelyNotSentError("address") from None
        except TimeoutError:
            raise SurelyNotSentError("connect") from None
        except OSError:
            raise SurelyNotSentError("dns") from None

    async def _connect_to_one(self, target: Target, found: addresses.Addresses) -> Connection:
        """To exactly the checked addresses; TLS verifies the name."""
        loop = asyncio.get_running_loop()
        secure = target.scheme == "https"
        context = (self._ssl or _shared_context()) if secure else None
        reason = "connect"
        for address in found:
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self._incoming),
                    address,
                    target.port,
                    ssl=context,
                    server_hostname=target.name if secure else None,
                )
                return connection
            except ssl.SSLError:
                reason = "tls"
            except OSError:
                reason = "connect"
        raise SurelyNotSentError(reason)

    def _take(self, target: Target) -> Connection | None:
        kept = self._idle.get((target.scheme, target.name, target.port))
        while kept:
            connection = kept.pop()  # the one used last is the least likely to be stale
            in_time = asyncio.get_running_loop().time() < connection.idle_until
            connection.idle_until = 0.0
            if in_time and connection.is_fresh():
                return connection
            connection.abort()
        return None

    def _keep(self, target: Target, connection: Connection) -> None:
        kept = self._idle.setdefault((target.scheme, target.name, target.port), deque())
        if connection.closed or len(kept) >= IDLE_LIMIT:
            connection.abort()
            return
        kept.append(connection)
        connection.keep_for(self._keepalive)


_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection"})


def _serialised(
    method: str, target: Target, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> bytes:
    """Raises: SurelyNotSentError for a header that would start another one."""
    lines = [
        f"{method} {target.path} HTTP/1.1".encode("ascii"),
        b"host: " + target.host.encode("ascii"),
        b"content-length: %d" % len(body),
        *(name + b": " + value for name, value in headers if name.lower() not in _FRAMING),
    ]
    head = b"\r\n".join(lines)
    ends = len(lines) - 1
    if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
        raise SurelyNotSentError("header")
    return b"".join((head, b"\r\n\r\n", body))


_CONTEXT: list[ssl.SSLContext] = []


def _shared_context() -> ssl.SSLContext:
    """One per process: building it costs 20 ms. The system's authorities, else certifi's."""
    if not _CONTEXT:
        paths = ssl.get_default_verify_paths()
        context = ssl.create_default_context(
            cafile=None if paths.cafile or paths.capath else certifi.where()
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _CONTEXT.append(context)
    return _CONTEXT[0]
