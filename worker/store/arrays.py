"""Whole columns as PostgreSQL arrays, packed in its binary form.

psycopg turns a list into an array an element at a time, in Python, as text with quotes: of a group
of renewals that took most of the time. What is packed here is sent as it is.

Source: array_send and array_recv, https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/arrayfuncs.c
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD = struct.Struct(">iIIii")  # dimensions, whether NULLs may be in it, type, size, first index
_EMPTY = struct.Struct(">iII")
_SIZED = struct.Struct(">iq")
_NULL = b"\xff\xff\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's
_MICROSECOND = timedelta(microseconds=1)


class Packed(bytes):
    """An array as it goes over the wire; the subclass tells its type."""

    element = 0
    array = 0  # object ids, as in pg_type.dat


class Uuids(Packed):
    element, array = 2950, 2951


class Integers(Packed):
    element, array = 20, 1016


class Blobs(Packed):
    element, array = 17, 1001


class Texts(Packed):
    element, array = 25, 1009


class Instants(Packed):
    element, array = 1184, 1185


class Flags(Packed):
    element, array = 16, 1000


P = TypeVar("P", bound=Packed)


def uuids(values: Iterable[UUID | None]) -> Uuids:
    sixteen = b"\0\0\0\x10"
    return _packed(
        Uuids, [_NULL if v is None else sixteen + v.int.to_bytes(16, "big") for v in values]
    )


def integers(values: Iterable[int]) -> Integers:
    return _packed(Integers, [_SIZED.pack(8, value) for value in values])


def blobs(values: Iterable[bytes | None]) -> Blobs:
    return _packed(Blobs, [_NULL if v is None else len(v).to_bytes(4, "big") + v for v in values])


def texts(values: Iterable[str | None]) -> Texts:
    return _packed(Texts, [_NULL if value is None else _text(value) for value in values])


def instants(values: Iterable[datetime | None]) -> Instants:
    return _packed(Instants, [_NULL if value is None else _instant(value) for value in values])


def flags(values: Iterable[bool]) -> Flags:
    return _packed(Flags, [b"\0\0\0\x01\x01" if value else b"\0\0\0\x01\0" for value in values])


def _text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def _instant(value: datetime) -> bytes:
    return _SIZED.pack(8, (value - _EPOCH) // _MICROSECOND)


def _packed(kind: type[P], elements: list[bytes]) -> P:
    if not elements:
        return kind(_EMPTY.pack(0, 0, kind.element))
    return kind(_HEAD.pack(1, 1, kind.element, len(elements), 1) + b"".join(elements))


def _dumper(kind: type[Packed]) -> type[Dumper]:
    class Sent(Dumper):
        format = Format.BINARY
        oid = kind.array

        def dump(self, obj: bytes) -> bytes:
            return obj

    return Sent


for _kind in (Uuids, Integers, Blobs, Texts, Instants, Flags):
    psycopg.adapters.register_dumper(_kind, _dumper(_kind))
