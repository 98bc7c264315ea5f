"""One connection to a token endpoint, plain or over TLS, and what became of what was sent on it."""

from __future__ import annotations

import asyncio
import select
import ssl

import httptools
import httpx

from worker.providers.answer import Answer


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
    """One connection over TCP; at most one exchange is under way on it.

    What arrives goes into `incoming`, which all connections of a loop share, and is copied from
    there at once: a plain protocol gets 256 KiB anew for each kilobyte that comes.
    """

    def __init__(self, incoming: bytearray) -> None:
        self._incoming = incoming
        self.closed = False
        self.until = 0.0  # by the loop's clock: what is under way, or else the keeping, ends
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
        self._read(nbytes)

    async def ready(self) -> None:
        """What is to be agreed upon before a request may be sent. Raises: OSError."""

    def _read(self, nbytes: int) -> None:
        """So many bytes of an answer lie at the head of `incoming`."""
        if self._answer is None:
            self.abort()  # nobody asked
            return
        try:
            self._answer.feed(bytes(memoryview(self._incoming)[:nbytes]))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._answer.complete:  # what lies behind it takes nothing from it
                self._finish()
            else:
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

    def end_by(self, seconds: float) -> None:
        """Close it then, if it is in the same use still. One timer serves for many exchanges."""
        loop = asyncio.get_running_loop()
        self.until = loop.time() + seconds
        if self._timer is None or self._timer.when() > self.until:
            self._forget_timer()
            self._timer = loop.call_at(self.until, self._look_at_the_time)

    def _look_at_the_time(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        if self.closed:
            return
        if self.until <= loop.time():
            self.abort("timeout")
        else:
            self._timer = loop.call_at(self.until, self._look_at_the_time)

    def send(self, request: bytes, patience: float) -> asyncio.Future[Answer]:
        """Write at once; within `patience` seconds the future ends in an answer or in
        MaybeSentError."""
        self.end_by(patience)
        self._answer = Answer()
        self._done = asyncio.get_running_loop().create_future()
        self._write(request)
        return self._done

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

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

    def _taken(self) -> Answer | None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.let_go()
        return answer

    def _finish(self) -> None:
        answer = self._taken()
        if answer is None:
            return
        if answer.cut or not answer.keep_alive:
            self.closed = True
            if self._transport:
                self._transport.abort()
        done, self._done = self._done, None  # which holds the answer
        if done and not done.done():
            done.set_result(answer)

    def _fail(self, reason: str) -> None:
        answer = self._taken()
        if self._done and not self._done.done():
            fragment = answer if answer and answer.status else None
            self._done.set_exception(MaybeSentError(reason, fragment))


class SecureConnection(Connection):
    """The same over TLS, with OpenSSL's session in memory.

    asyncio's own layer keeps a quarter of a megabyte for each connection, and passes all that
    comes through three more queues; here an answer is one read. Certificate and name are verified
    by OpenSSL, as the context says.
    """

    def __init__(self, incoming: bytearray, context: ssl.SSLContext, name: str) -> None:
        super().__init__(incoming)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._arrived, self._leaving, server_hostname=name)
        self._agreed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ready(self) -> None:
        """Raises: ssl.SSLError, or ConnectionError where the other side went away."""
        try:
            self._shake_hands()
            await self._agreed
        except BaseException:
            self.abort()
            raise

    def buffer_updated(self, nbytes: int) -> None:
        self._arrived.write(memoryview(self._incoming)[:nbytes])
        if not self._agreed.done():
            self._shake_hands()
        if self._agreed.done():
            self._open()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._agreed.done():
            self._agreed.set_exception(exc or ConnectionResetError("closed in the handshake"))
        super().connection_lost(exc)

    def _shake_hands(self) -> None:
        if self._agreed.done():
            return
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._agreed.set_exception(error)
        else:
            self._agreed.set_result(None)
        self._flush()  # an alert, too

    def _open(self) -> None:
        """Whatever has arrived in whole records, a record at a time."""
        try:
            while not self.closed:
                opened: int = self._session.read(len(self._incoming), self._incoming)  # type: ignore[assignment]  # a count, into a buffer
                if not opened:  # the other side said that it has no more to say
                    self._leave()
                    break
                self._read(opened)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.abort("protocol")
        self._flush()

    def _leave(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _write(self, data: bytes) -> None:
        """A write takes at most one record's worth. Where it fails, some may have left."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._session.write(left) :]
        except ssl.SSLError:
            self.abort("tls")
        self._flush()

    def _flush(self) -> None:
        sealed = self._leaving.read()
        if sealed and self._transport is not None and not self._transport.is_closing():
            self._transport.write(sealed)
