"""The form of a journal file: a head, then records, each with its length and checksum.

    EGJ1\\n | length u32 | crc32 u32 | body | length u32 | crc32 u32 | body | …

A body is MessagePack: an `Entry` (tokens that came), or a `Mark` (entries the store has). The
last record may be torn, by a crash in the middle of an append: reading stops there, quietly.
A record that is whole but fails its checksum is not torn but damaged: told, and stepped over.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from uuid import UUID

import msgspec

from worker.domain.attempt import Brought
from worker.domain.grant import AttemptId, ExpiryKind, Fingerprint, GrantId

HEAD = b"EGJ1\n"
_FRAME = struct.Struct("<II")
_LARGEST = 1 << 20


class Entry(msgspec.Struct, frozen=True, tag="e", array_like=True):
    """One `Brought`, its tokens sealed by the vault; `number` counts within the process."""

    number: int
    grant: UUID
    tenant: str
    connection: str
    provider: str
    user_id: str | None
    attempt: UUID
    fence: int
    parent_fp: bytes | None
    family: int
    generation: int
    access_token: bytes | None
    refresh_token: bytes | None
    at_fp: bytes | None
    rt_fp: bytes | None
    token_type: str
    scope: str | None
    issued_at: datetime
    expiry: str
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    due_at: datetime | None
    not_before: datetime | None
    logged_in_at: datetime
    read: bool
    echoed: bool
    healed: bool
    aside: str = ""

    def __repr__(self) -> str:
        return f"Entry({self.number}, grant={self.grant}, fence={self.fence})"


class Mark(msgspec.Struct, frozen=True, tag="m", array_like=True):
    """The store has these entries; `counter` is its count of this process's groups (I24)."""

    entries: list[int]
    counter: int


Record = Entry | Mark
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def entry_of(brought: Brought, number: int) -> Entry:
    return Entry(number, *_values(brought))


def brought_of(entry: Entry) -> Brought:
    fields = {name: getattr(entry, name) for name in _FIELDS}
    return Brought(
        **fields
        | {
            "grant": GrantId(entry.grant),
            "attempt": AttemptId(entry.attempt),
            "parent_fp": _fp(entry.parent_fp),
            "at_fp": _fp(entry.at_fp),
            "rt_fp": _fp(entry.rt_fp),
            "expiry": ExpiryKind(entry.expiry),
        }
    )


_FIELDS = Entry.__struct_fields__[1:]  # all but the number
_values = attrgetter(*_FIELDS)


def framed(record: Record) -> bytes:
    body = _encode(record)
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


@dataclass(frozen=True, slots=True)
class Damage:
    """A record that is there in full but is not what was written; the rest is read on."""

    what: str


def records_in(content: bytes) -> Iterator[Record | Damage]:
    """Every whole record, and what of the file cannot be trusted."""
    if content[: len(HEAD)] != HEAD:
        if not HEAD.startswith(content):  # else torn at birth
            yield Damage("not a journal of this version")
        return
    at = len(HEAD)
    while at + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, at)
        body_at, end = at + _FRAME.size, at + _FRAME.size + length
        if length > _LARGEST:
            yield Damage(f"record at byte {at} has an impossible length")
            return
        if end > len(content):
            return  # torn
        body = content[body_at:end]
        if zlib.crc32(body) == checksum:
            yield _decode(body)
        elif end < len(content):  # else torn as well: its length was written before its body
            yield Damage(f"record at byte {at} fails its checksum")
        at = end


def _fp(value: bytes | None) -> Fingerprint | None:
    return None if value is None else Fingerprint(value)
