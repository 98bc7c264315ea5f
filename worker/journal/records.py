"""The form of a journal file: a head, then records, each with its length and checksum.

    EGJ1\\n | length u32 | crc32 u32 | body | length u32 | crc32 u32 | body | …

A body is MessagePack: an `Entry` (tokens that came), or a `Mark` (entries the store has). The
last record may be torn, by a crash in the middle of an append, cut off or full of zeros: reading
stops there, quietly. Whatever else is not a record is damaged: told, and stepped over to the next
that is one, as its length may be what is wrong.
"""

from __future__ import annotations

import re
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
_BEGINNING = re.compile(rb"[\x90-\x9f]\xa1[em]|\xdc..\xa1[em]", re.DOTALL)  # of a body


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
    while at < len(content):
        found = _record_at(content, at)
        if found is not None:
            record, at = found
            yield record
            continue
        following = _next_record(content, at + 1)
        if following is not None or not _is_torn(content[at:]):
            yield Damage(f"what stands at byte {at} is no record")
        if following is None:
            return
        at = following


def _record_at(content: bytes, at: int) -> tuple[Record, int] | None:
    """The record that begins there, and where it ends."""
    body_at = at + _FRAME.size
    if body_at > len(content):
        return None
    length, checksum = _FRAME.unpack_from(content, at)
    body = content[body_at : body_at + length] if length <= _LARGEST else b""
    if len(body) != length or zlib.crc32(body) != checksum:
        return None
    try:
        return _decode(body), body_at + length
    except msgspec.MsgspecError:  # zeros have their right checksum
        return None


def _next_record(content: bytes, at: int) -> int | None:
    for found in _BEGINNING.finditer(content, at + _FRAME.size):
        if _record_at(content, found.start() - _FRAME.size) is not None:
            return found.start() - _FRAME.size
    return None


def _is_torn(rest: bytes) -> bool:
    """What a crash leaves of a last record: a part of it, or its length and what was never written;
    or zeros, where the file has grown and nothing of what was to stand there came."""
    if len(rest) < _FRAME.size or not rest.strip(b"\0"):
        return True
    length, _ = _FRAME.unpack_from(rest)
    return length <= _LARGEST and _FRAME.size + int(length) >= len(rest)


def _fp(value: bytes | None) -> Fingerprint | None:
    return None if value is None else Fingerprint(value)
