"""Taking a request's body in, bounded in bytes, in time, and in what it may unpack to."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class TooLargeError(Exception):
    """More came than is taken; `start` is the beginning of it."""

    def __init__(self, start: bytes) -> None:
        super().__init__("too large")
        self.start = start


class TooSlowError(Exception):
    """The body did not arrive in time."""


class GoneError(Exception):
    """The sender hung up."""


_KEPT = 64 * 1024  # bytes of an oversized body
_MEMBERS = 100  # of a compressed one; each costs a copy of what lies behind it


async def body_of(receive: Receive, *, limit: int, seconds: float) -> bytes:
    """The whole body. Raises: TooLargeError as soon as it is, TooSlowError, GoneError."""
    message = await _next(receive, seconds)
    if not message.get("more_body", False):  # one piece, as nearly always
        return _bounded(message.get("body", b""), limit)
    try:
        async with asyncio.timeout(seconds):  # for all pieces together: a slow drip ends here
            return await _pieces(receive, message.get("body", b""), limit)
    except TimeoutError:
        raise TooSlowError from None


async def _next(receive: Receive, seconds: float) -> MutableMapping[str, Any]:
    try:
        async with asyncio.timeout(seconds):
            message = await receive()
    except TimeoutError:
        raise TooSlowError from None
    if message["type"] == "http.disconnect":
        raise GoneError
    return message


async def _pieces(receive: Receive, first: bytes, limit: int) -> bytes:
    taken = bytearray(first)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        taken += message.get("body", b"")
        _bounded(taken, limit)
        more = message.get("more_body", False)
    return bytes(taken)


def _bounded(body: bytes | bytearray, limit: int) -> bytes:
    if len(body) > limit:
        raise TooLargeError(bytes(body[:_KEPT]))
    return bytes(body)


def unpacked(body: bytes, encoding: bytes, *, limit: int) -> bytes:
    """The body without its Content-Encoding; one we do not know stays as it is.

    Raises: TooLargeError, having unpacked no more than `limit` bytes of a bomb.
    """
    if encoding.strip().lower() not in (b"gzip", b"x-gzip", b"deflate"):
        return body
    plain, rest = bytearray(), body
    for _ in range(_MEMBERS):  # a proxy may have compressed it in pieces (RFC 1952 §2.2)
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib by its header
        try:
            plain += unpacker.decompress(rest, limit + 1 - len(plain))
        except zlib.error:
            return body  # no such thing: unreadable, and kept as it came
        _bounded(plain, limit)
        if not unpacker.eof:
            return body  # cut short: what is missing may be what matters
        rest = unpacker.unused_data
        if not rest:
            return bytes(plain)
    return body
