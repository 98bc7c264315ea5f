"""Watches Auth0's streams towards us: what they could not deliver, and whether they still run.

An event stream drops what failed four times, or once with 4xx, unless somebody asks for it, and a
disabled one keeps nothing (https://auth0.com/docs/customize/events/events-best-practices). So its
failures are read and taken in here directly; asking Auth0 to deliver them again only tidies up
its count of failures, and is done with one event first: a door that is still shut would otherwise
be knocked at until the stream is disabled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from worker.auth0 import ManagementApi
from worker.auth0 import streams as auth0
from worker.auth0.streams import FailedDelivery, Stream
from worker.domain.ports import Clock, Notice, Offload
from worker.store.following import FollowingRepository, StreamLine

_log = structlog.get_logger("worker.sync")

Feed = Callable[[str, Sequence[bytes]], Awaitable[None]]
"""(tenant, CloudEvents in JSON): durable when it returns; known ids are dropped there."""

DOOR = "/hooks/auth0/"  # in the path of a webhook of ours
_PAGES = 50  # of a hundred failed deliveries, in one look
_FIRST_LOOK = timedelta(days=7)
_OVERLAP = timedelta(hours=1)  # what Auth0 still tries fails later than it happened


class StreamWatch:
    """One look at the streams of a tenant; each part only where its scope is granted."""

    def __init__(
        self,
        apis: Mapping[str, ManagementApi],
        following: FollowingRepository,
        *,
        feed: Feed,
        tell: Callable[[Sequence[Notice]], None],
        clock: Clock,
        offload: Offload,
    ) -> None:
        self._apis = apis
        self._following = following
        self._feed = feed
        self._tell = tell
        self._clock = clock
        self._offload = offload
        self._knocked: dict[str, str] = {}  # stream → the event asked for again, as a trial

    async def once(self, tenant: str) -> dict[str, int]:
        """Look, take in what failed, tell what has stopped; returns counts of both.

        Raises: TransientError, ConfigurationError.
        """
        api = self._apis[tenant]
        granted = (await api.granted_scopes()).split()
        events: Sequence[Stream] = ()
        stopped = 0
        if "read:log_streams" in granted:
            stopped += await self._noted(tenant, "log_stream", _ours(await auth0.log_streams(api)))
        if "read:event_streams" in granted:
            events = _ours(await auth0.event_streams(api))
            stopped += await self._noted(tenant, "event_stream", events)
        failed = 0
        if "read:event_deliveries" in granted:
            may_ask = "update:event_deliveries" in granted
            for stream in events:
                failed += await self._recovered(tenant, api, stream, may_ask=may_ask)
        return {"failed_deliveries": failed, "streams_stopped": stopped}

    async def _noted(self, tenant: str, kind: str, seen: Sequence[Stream]) -> int:
        now = self._clock.now()
        lines = {stream.id: _line(stream, now) for stream in seen if stream.id}
        stopped = await self._offload(self._following.note_streams, tenant, kind, lines)
        for line in stopped:
            _log.error("auth0_stream_stopped", tenant=tenant, stream=line.id, status=line.status)
        if stopped:
            await self._offload(self._tell, [_notice(tenant, line) for line in stopped])
        return len(stopped)

    async def _recovered(
        self, tenant: str, api: ManagementApi, stream: Stream, *, may_ask: bool
    ) -> int:
        began = self._clock.now()
        failed, all_read = await self._failed(tenant, api, stream)
        told = [msgspec.json.encode(one.event) for one in failed if one.event is not None]
        if told:
            await self._feed(tenant, told)
        if all_read:
            await self._offload(self._following.note_read, tenant, stream.id, began)
        if may_ask and stream.running:
            await self._ask_again(api, stream.id, failed)
        return len(failed)

    async def _failed(
        self, tenant: str, api: ManagementApi, stream: Stream
    ) -> tuple[list[FailedDelivery], bool]:
        lines = await self._offload(self._following.streams, tenant)
        read_until = next((line.read_until for line in lines if line.id == stream.id), None)
        since = read_until - _OVERLAP if read_until else self._clock.now() - _FIRST_LOOK
        found: list[FailedDelivery] = []
        after: str | None = None
        for _ in range(_PAGES):
            page, after = await auth0.failed_deliveries(api, stream.id, since=since, after=after)
            found += page
            if after is None:
                return found, True
        return found, False

    async def _ask_again(
        self, api: ManagementApi, stream_id: str, failed: Sequence[FailedDelivery]
    ) -> None:
        ids = [one.event_id for one in failed]
        if not ids:
            self._knocked.pop(stream_id, None)
        elif (knocked := self._knocked.get(stream_id)) is not None and knocked not in ids:
            await auth0.redeliver(api, stream_id, None)  # that one went through: now the others
        else:
            self._knocked[stream_id] = knocked or ids[0]
            await auth0.redeliver(api, stream_id, self._knocked[stream_id])


def _ours(streams: Sequence[Stream]) -> Sequence[Stream]:
    return [stream for stream in streams if DOOR in stream.path]


def _line(stream: Stream, now: datetime) -> StreamLine:
    return StreamLine(
        id=stream.id,
        kind=stream.kind,
        name=stream.name,
        status=stream.status,
        running=stream.running,
        since=now,
    )


def _notice(tenant: str, line: StreamLine) -> Notice:
    return Notice(
        tenant=tenant,
        kind="auth0_stream_stopped",
        episode=f"auth0_stream_stopped:{line.id}:{line.since.isoformat()}",
        reason=f"{line.kind} {line.id} is {line.status}",
    )
