"""From the bytes of a delivery to events: every body form, whatever its Content-Type says.

Log streams send JSON lines, an array, or {"logs": […]}; event streams one CloudEvent or a batch;
EventBridge wraps either in "detail"; our Action has a form of its own. Which it is shows in the
record, so every door reads them all. Records stay raw slices until one is known to matter.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from worker.domain import loose_json
from worker.domain.event import Event, Source
from worker.events import cloud_events, log_codes
from worker.events.facts import Origin, TenantFacts, UnreadableError, an_id

__all__ = ["LONGEST_RAW", "Reading", "TenantFacts", "Unreadable", "joined", "read_body"]

LONGEST_RAW = 64 * 1024  # bytes kept of what could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """An authentic record that could not be understood; kept, never answered 4xx (I25)."""

    delivery_id: str
    raw: bytes = field(repr=False)
    why: str  # a code


@dataclass(slots=True)
class Reading:
    """What one body held."""

    events: list[Event] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    ignored: int = 0  # records that call for nothing


class _Record(msgspec.Struct):
    """The union of all envelopes; which fields are there tells the form."""

    log_id: Any = None
    data: msgspec.Raw = msgspec.Raw()
    type: Any = None
    specversion: Any = None
    spec_version: Any = None
    id: Any = None
    time: Any = None
    a0tenant: Any = None
    a0purpose: Any = None
    detail: msgspec.Raw = msgspec.Raw()
    detail_type: Any = msgspec.field(default=None, name="detail-type")
    kind: Any = None
    event: msgspec.Raw = msgspec.Raw()
    logs: msgspec.Raw = msgspec.Raw()


_record = msgspec.json.Decoder(_Record)
_many = msgspec.json.Decoder(list[msgspec.Raw])
_log_data = msgspec.json.Decoder(log_codes.LogData)
_action = msgspec.json.Decoder(cloud_events.ActionMessage)

# RecursionError is what msgspec makes of nesting deeper than the interpreter's stack limit
_NONSENSE = (msgspec.MsgspecError, ValueError, RecursionError, UnreadableError)
_LOGS = re.compile(rb'\{\s*"logs"\s*:\s*\[')


def read_body(
    body: bytes, *, tenant: TenantFacts, source: Source, delivery_id: str | None = None
) -> Reading:
    """Never raises on what a sender may send. `delivery_id` is the transport's, if it has one."""
    reading = Reading()
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    try:
        slices = _split(body)
    except _NONSENSE as error:
        _keep(reading, body, error)
        return reading
    for piece in slices:
        _read_record(piece, reading, tenant, source, delivery_id)
    if len(reading.unreadable) > 1 and not reading.events and not reading.ignored:
        reading.unreadable.clear()  # no line made sense: it is one broken thing, not many
        _keep(reading, body, UnreadableError("no record", code="no_record"))
    return reading


def joined(records: Iterable[bytes]) -> bytes:
    """Records that were read one by one, as one body."""
    return b"[" + b",".join(records) + b"]"


def _split(body: bytes) -> Iterable[bytes | msgspec.Raw]:
    if body.startswith(b"["):
        return _elements(body)
    try:
        envelope = _record.decode(body)
    except _NONSENSE:
        if logs := _LOGS.match(body):
            return loose_json.elements(body[logs.end() - 1 :])
        lines = [line for line in body.split(b"\n") if line.strip()]
        return lines or [body]
    return _elements(bytes(envelope.logs)) if bytes(envelope.logs) else [body]


def _elements(array: bytes) -> Iterable[bytes | msgspec.Raw]:
    try:
        return _many.decode(array)
    except _NONSENSE:
        return loose_json.elements(array)  # slower, and one bad element costs only itself


def _read_record(
    piece: bytes | msgspec.Raw,
    reading: Reading,
    tenant: TenantFacts,
    source: Source,
    delivery_id: str | None,
) -> None:
    try:
        found = list(_found_in(piece, tenant, source, delivery_id))
    except _NONSENSE as error:
        _keep(reading, bytes(piece), error)
        return
    reading.events.extend(found)
    reading.ignored += not found


def _found_in(
    piece: bytes | msgspec.Raw, tenant: TenantFacts, source: Source, delivery_id: str | None
) -> Iterable[Event]:
    try:
        return list(_events_in(piece, tenant, source, delivery_id))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _events_in(loose_json.mended(bytes(piece)), tenant, source, delivery_id)


def _events_in(
    piece: bytes | msgspec.Raw, tenant: TenantFacts, source: Source, delivery_id: str | None
) -> Iterable[Event]:
    record = _record.decode(piece)
    if record.detail_type is not None and bytes(record.detail):  # EventBridge's wrapping
        piece, record = record.detail, _record.decode(record.detail)
    elif record.kind == "event-stream" and bytes(record.event):  # an Event Stream's own Action
        piece, record = record.event, _record.decode(record.event)
    if record.kind is not None:
        origin = Origin(tenant, source, _delivery(delivery_id or record.id, piece))
        return cloud_events.of_action(_action.decode(piece), origin)
    if _is_cloud_event(record):
        return _cloud_event(record, tenant, source)
    return _log_record(record, piece, tenant, source)


def _is_cloud_event(record: _Record) -> bool:
    """By `specversion`, which one table of Auth0's spells otherwise and the Events API may omit."""
    told = record.specversion is not None or record.spec_version is not None
    return told or (isinstance(record.id, str) and record.id.startswith("evt_"))


def _cloud_event(record: _Record, tenant: TenantFacts, source: Source) -> Iterable[Event]:
    if record.a0purpose == "test":
        return ()
    if tenant.excludes(record.a0tenant):
        return ()
    if (delivery_id := an_id(record.id)) is None:
        raise UnreadableError("a CloudEvent without an id", code="no_id")
    origin = Origin(tenant, source, delivery_id)
    return cloud_events.events_of(record.type, record.time, record.data, origin)


def _log_record(
    record: _Record, piece: bytes | msgspec.Raw, tenant: TenantFacts, source: Source
) -> Iterable[Event]:
    """The stream wraps a log in {"log_id", "data"}; `GET /api/v2/logs` gives it bare."""
    data = _log_data.decode(record.data if bytes(record.data) else piece)
    delivery_id = record.log_id or data.log_id or data.id
    return log_codes.events_of(data, Origin(tenant, source, _delivery(delivery_id, piece)))


def _delivery(told: Any, piece: bytes | msgspec.Raw) -> str:
    """The sender's id, or where it gave none the content's hash: a repeat is a repeat then too."""
    return an_id(told) or "sha256:" + hashlib.sha256(piece).hexdigest()


def _keep(reading: Reading, raw: bytes, error: BaseException) -> None:
    reading.unreadable.append(
        Unreadable(
            delivery_id="sha256:" + hashlib.sha256(raw).hexdigest(),
            raw=raw[:LONGEST_RAW],
            why=error.code if isinstance(error, UnreadableError) else "not_json",
        )
    )
