"""The tenant's log, read page by page. A record is left as it stands: whoever keeps events reads
it, and one that nobody can read must not keep the others from being followed.

Needs read:logs. https://auth0.com/docs/deploy-monitor/logs/retrieve-log-events-using-mgmt-api
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from worker.auth0.answers import text
from worker.auth0.budget import Priority
from worker.auth0.management import PAGE, ManagementApi
from worker.domain import loose_json
from worker.domain.errors import TransientError


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record; `id` None: it shows none."""

    id: str | None
    raw: bytes = field(repr=False)


class _Ids(msgspec.Struct):
    log_id: Any = None
    older: Any = msgspec.field(default=None, name="_id")  # the name of it in older records


class _Wrapped(msgspec.Struct):
    logs: msgspec.Raw


_many = msgspec.json.Decoder(list[msgspec.Raw])
_wrapped = msgspec.json.Decoder(_Wrapped)
_ids = msgspec.json.Decoder(_Ids)
_ID = re.compile(rb'"(?:log_id|_id)"\s*:\s*"(\w+)"')  # of a record that cannot be decoded
_ARRAY = re.compile(rb'\{\s*"logs"\s*:\s*(?=\[)')
_NONSENSE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


async def after(api: ManagementApi, since: str, *, take: int = PAGE) -> Sequence[LogRecord]:
    """Records after the one named, oldest first; none: caught up."""
    return await _page(api, {"from": since, "take": str(take)})


async def first(api: ManagementApi, *, take: int = PAGE) -> Sequence[LogRecord]:
    """The oldest records there are; for a log that was empty when following began."""
    return await _page(api, {"sort": "date:1", "per_page": str(take), "page": "0"})


async def newest(api: ManagementApi) -> str | None:
    """Where following the log can begin; None: it is empty."""
    found = await _page(api, {"sort": "date:-1", "per_page": "1", "page": "0"})
    return found[0].id if found else None


async def _page(api: ManagementApi, params: Mapping[str, str]) -> Sequence[LogRecord]:
    body = await api.body("logs", "/logs", params, priority=Priority.FORCED)
    try:
        return [LogRecord(_id_of(raw), raw) for raw in _slices(body)]
    except (*_NONSENSE, ValueError):
        raise TransientError(
            f"{api.tenant}: an answer that is no list", code="unreadable_answer"
        ) from None


def _slices(body: bytes) -> list[bytes]:
    try:
        told = body if body.lstrip().startswith(b"[") else bytes(_wrapped.decode(body).logs)
        return [bytes(raw) for raw in _many.decode(told)]
    except _NONSENSE:
        return loose_json.elements(_ARRAY.sub(b"", body, count=1))


def _id_of(raw: bytes) -> str | None:
    try:
        ids = _ids.decode(raw)
    except _NONSENSE:
        found = _ID.search(raw)
        return found[1].decode() if found else None
    return text(ids.log_id) or text(ids.older)
