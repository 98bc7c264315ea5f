"""Auth0's export job: every user id of a tenant, or of a connection, in one file.

Sources: https://auth0.com/docs/manage-users/user-migration/bulk-user-exports (NDJSON; the link is
good for 60 seconds and made anew by asking again; not on the Free plan) and the models of
auth0-python 6.8. Of each user only the id is asked for: the file is no place for more.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from worker.auth0.answers import text
from worker.auth0.budget import Priority
from worker.auth0.management import ManagementApi
from worker.domain.errors import PermanentError, TransientError

_GZIP_OR_ZLIB = 47  # zlib's wbits: tells them apart by itself
_LONGEST = 1 << 20  # bytes of a line; one with an id and nothing else has some fifty
_ENDED = frozenset({"failed", "canceled", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """How an export stands."""

    id: str
    status: str  # as Auth0 says: pending, processing, completed, failed
    percent: int | None
    location: str | None  # where the file is, for a minute


async def begin_export(api: ManagementApi, *, connection_id: str | None = None) -> ExportJob:
    """Raises: as every call; PermanentError also on a plan without exports."""
    body: dict[str, Any] = {"format": "json", "fields": [{"name": "user_id"}]}
    if connection_id:
        body["connection_id"] = connection_id
    path = "/jobs/users-exports"
    return _job(api, await api.post("jobs", path, body, priority=Priority.BACKFILL))


async def export_job(api: ManagementApi, job_id: str) -> ExportJob:
    """Raises: PermanentError too when it has failed."""
    path = f"/jobs/{quote(job_id, safe='')}"
    job = _job(api, await api.get("jobs", path, {}, priority=Priority.BACKFILL))
    if job.status in _ENDED:
        raise PermanentError(f"{api.tenant}: Auth0's export has failed", code="export_failed")
    return job


async def exported_ids(api: ManagementApi, location: str) -> AsyncIterator[str]:
    """The ids in the file, in its order. Raises: TransientError, also when it is cut short."""
    rest = b""
    async with api.fetching(location) as answer:
        async for piece in _unpacked(answer.aiter_raw()):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LONGEST:
                raise TransientError("export: a line without end", code="unreadable_answer")
            for line in lines:
                if user_id := _id(line):
                    yield user_id
    if user_id := _id(rest):
        yield user_id


async def _unpacked(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """As stored: usually gzip, whatever the headers say."""
    unpack: Any = None
    first = True
    async for piece in pieces:
        if first and piece:
            first = False
            unpack = zlib.decompressobj(_GZIP_OR_ZLIB) if piece[:2] == b"\x1f\x8b" else None
        try:
            yield piece if unpack is None else unpack.decompress(piece)
        except zlib.error:
            raise TransientError("export: damaged on its way", code="unreadable_answer") from None
    if unpack is not None and not unpack.eof:
        raise TransientError("export: cut short", code="unreadable_answer")


def _id(line: bytes) -> str | None:
    if not line.strip():
        return None
    try:
        told = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TransientError("export: not a user", code="unreadable_answer") from None
    return text(told.get("user_id")) if isinstance(told, dict) else None


def _job(api: ManagementApi, body: Any) -> ExportJob:
    job_id = text(body.get("id")) if isinstance(body, dict) else None
    if job_id is None:
        raise TransientError(f"{api.tenant}: not a job", code="unreadable_answer")
    percent = body.get("percentage_done")
    return ExportJob(
        id=job_id,
        status=text(body.get("status")) or "",
        percent=percent if isinstance(percent, int) else None,
        location=text(body.get("location")),
    )
