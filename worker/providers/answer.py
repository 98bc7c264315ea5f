"""An HTTP/1.1 answer as it arrives, within limits that its sender does not set."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import httptools

BODY_LIMIT = 64 * 1024
HEADER_LIMIT = 32 * 1024
INFORMATIONAL_LIMIT = 8  # 1xx answers before the real one; more is an attack


@dataclass(slots=True)
class Answer:
    """An answer as it grows; the callbacks are httptools'."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray, repr=False)
    complete: bool = False
    cut: bool = False  # more came than is kept
    keep_alive: bool = False
    _fed: int = 0
    _header_bytes: int = 0
    _informational: int = 0
    _parser: httptools.HttpResponseParser | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Raises: httptools.HttpParserError for what is not HTTP or breaks a limit."""
        if self.status == 0 and self._fed > HEADER_LIMIT:
            raise httptools.HttpParserError("header too large")
        assert self._parser is not None
        self._fed += len(data)
        self._parser.feed_data(data)

    def let_go(self) -> None:
        """No more is fed. Parser and answer hold each other: tokens would lie about until the
        next collection."""
        self._parser = None

    def closed(self) -> None:
        """The other side has no more to say: the end of a body without a length."""
        framed = "content-length" in self.headers or "transfer-encoding" in self.headers
        self.complete = self.complete or (self.status != 0 and not framed)

    def on_message_begin(self) -> None:
        if self.complete:  # a second answer to one question
            raise httptools.HttpParserError("unasked")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_LIMIT:
            raise httptools.HttpParserError("header too large")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            return
        self._informational += 1
        if self._informational > INFORMATIONAL_LIMIT:
            raise httptools.HttpParserError("too many informational answers")

    def on_body(self, data: bytes) -> None:
        self.body += data[: BODY_LIMIT - len(self.body) + 1]
        if len(self.body) > BODY_LIMIT:
            del self.body[BODY_LIMIT:]
            self.cut = True

    def on_message_complete(self) -> None:
        if self.status == 0:  # a 1xx; the answer follows
            self.headers.clear()
            return
        assert self._parser is not None
        self.complete = True
        self.keep_alive = self._parser.should_keep_alive()

    def content(self) -> bytes:
        """The body, decompressed as far as the limit; a bomb ends there, and so does garbage."""
        if self.headers.get("content-encoding", "").strip().lower() not in {"gzip", "deflate"}:
            return bytes(self.body)
        inflate = zlib.decompressobj(wbits=47)  # gzip or zlib, by its first bytes
        try:
            content = inflate.decompress(bytes(self.body), BODY_LIMIT)
        except zlib.error:
            content = b""
        self.cut = self.cut or not inflate.eof
        return content
