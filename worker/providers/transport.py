"""One exchange over HTTP/1.1, and the exact truth about it, behind httpx's transport interface.

A pool hides what the renewal protocol needs: when the bytes leave (the gate is asked right before
the write), whether they left at all, and that nobody else uses the connection meanwhile. So this
one is ours: httptools parses, one connection carries one exchange at a time, and an exchange ends
in an answer, in `SurelyNotSentError` or in `MaybeSentError`. Nothing is retried, no redirect
followed, no cookie kept, no proxy taken from the environment.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable

import certifi
import httpx

from worker.domain.errors import ConfigurationError
from worker.providers import addresses
from worker.providers.addresses import Resolve, SystemResolver, Target
from worker.providers.answer import Answer
from worker.providers.connection import Connection, SecureConnection, SurelyNotSentError

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 120.0  # from the write to the last byte, where the caller says nothing
# A server closes idle connections after some seconds without telling; a POST that meets the close
# halfway is an ambiguity bought for a handshake saved.
KEEPALIVE = 3.0
# Kept connections per host: more than are ever under way, for answers come in waves, and each that
# is closed in a trough is a handshake at the crest.
IDLE_LIMIT = 1024
INCOMING = 64 * 1024  # read from a socket at once


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
        done = connection.send(message, patience)
        try:
            answer = await done
        except asyncio.CancelledError:
            connection.abort()
            raise
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
        reason = "connect"
        for address in found:
            try:
                _, connection = await loop.create_connection(
                    lambda: self._made(target), address, target.port
                )
                await connection.ready()
                return connection
            except ssl.SSLError:
                reason = "tls"
            except OSError:
                reason = "connect"
        raise SurelyNotSentError(reason)

    def _made(self, target: Target) -> Connection:
        if target.scheme != "https":
            return Connection(self._incoming)
        return SecureConnection(self._incoming, self._ssl or _shared_context(), target.name)

    def _take(self, target: Target) -> Connection | None:
        kept = self._idle.get((target.scheme, target.name, target.port))
        while kept:
            connection = kept.pop()  # the one used last is the least likely to be stale
            in_time = asyncio.get_running_loop().time() < connection.until
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
        connection.end_by(self._keepalive)


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
