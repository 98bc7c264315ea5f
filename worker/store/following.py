"""How far we have followed what Auth0 tells on asking, and how its streams towards us stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select

from worker.store.engine import reading, writing
from worker.store.tables import TenantRow
from worker.store.tenant_row import locked, put
from worker.store.types import from_micros, to_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLine:
    """One of Auth0's streams towards us, as last looked at."""

    id: str
    kind: str  # "event_stream", "log_stream"
    name: str
    status: str  # Auth0's word
    running: bool
    since: datetime  # when it was first seen in this status
    read_until: datetime | None = None  # its failed deliveries are known up to here


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where in the tenant's events the next read begins."""

    offset: str | None  # opaque; None: none was given yet, or it has expired
    at: datetime | None  # when that was current; None: never followed


class FollowingRepository:
    """Two columns of the `tenants` table. Raises everywhere: TransientError, store away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def streams(self, tenant: str) -> list[StreamLine]:
        """What the last look saw, by id."""
        return sorted(_lines(self._read(tenant, "streams")).values(), key=lambda line: line.id)

    def note_streams(
        self, tenant: str, kind: str, seen: Mapping[str, StreamLine]
    ) -> list[StreamLine]:
        """Replace what is known of one kind of streams; returns those that have just stopped.

        A stream that is no longer listed is forgotten; `since` stays while the status does.
        """
        with writing(self._engine) as connection:
            known = _lines(locked(connection, tenant).streams)
            told = {id_: line for id_, line in known.items() if line.kind != kind}
            stopped = []
            for id_, line in seen.items():
                before = known.get(id_)
                told[id_] = _aged(line, before)
                if not line.running and (before is None or before.running):
                    stopped.append(told[id_])
            put(connection, tenant, streams={id_: _stored(line) for id_, line in told.items()})
        return stopped

    def note_read(self, tenant: str, stream_id: str, until: datetime) -> None:
        """Everything the stream failed to deliver before that is in the inbox."""
        with writing(self._engine) as connection:
            streams = dict(locked(connection, tenant).streams)
            if stream_id in streams:
                streams[stream_id] = {**streams[stream_id], "read_until": to_micros(until)}
                put(connection, tenant, streams=streams)

    def hold(self, tenant: str, holder: str, *, now: datetime, until: datetime) -> Position | None:
        """The position, if nobody else follows the tenant's events; else None.

        Asked again by the same holder it lasts longer.
        """
        with writing(self._engine) as connection:
            events = locked(connection, tenant).events
            held = events.get("holder") not in (None, holder)
            if held and events.get("until", 0) > to_micros(now):
                return None
            mine = {**events, "holder": holder, "until": to_micros(until)}
            put(connection, tenant, events=mine)
        return _position(events)

    def put_position(self, tenant: str, holder: str, position: Position) -> bool:
        """Move on; False: somebody else has taken over, and nothing was written."""
        with writing(self._engine) as connection:
            events = locked(connection, tenant).events
            if events.get("holder") != holder:
                return False
            at = to_micros(position.at) if position.at else None
            put(connection, tenant, events={**events, "offset": position.offset, "at": at})
        return True

    def release(self, tenant: str, holder: str) -> None:
        """Let another process follow at once."""
        with writing(self._engine) as connection:
            events = locked(connection, tenant).events
            if events.get("holder") == holder:
                put(connection, tenant, events={**events, "holder": None})

    def position(self, tenant: str) -> Position:
        return _position(self._read(tenant, "events"))

    def _read(self, tenant: str, column: str) -> Mapping[str, Any]:
        asked = select(getattr(TenantRow, column)).where(TenantRow.tenant == tenant)
        with reading(self._engine) as connection:
            return connection.execute(asked).scalar_one_or_none() or {}


def _lines(stored: Mapping[str, Any]) -> dict[str, StreamLine]:
    return {
        id_: StreamLine(
            id=id_,
            kind=told["kind"],
            name=told["name"],
            status=told["status"],
            running=told["running"],
            since=from_micros(told["since"]),
            read_until=from_micros(told["read_until"]) if told.get("read_until") else None,
        )
        for id_, told in stored.items()
    }


def _stored(line: StreamLine) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "name": line.name,
        "status": line.status,
        "running": line.running,
        "since": to_micros(line.since),
        "read_until": to_micros(line.read_until) if line.read_until else None,
    }


def _aged(line: StreamLine, before: StreamLine | None) -> StreamLine:
    if before is None:
        return line
    return StreamLine(
        id=line.id,
        kind=line.kind,
        name=line.name,
        status=line.status,
        running=line.running,
        since=before.since if before.status == line.status else line.since,
        read_until=before.read_until,
    )


def _position(events: Mapping[str, Any]) -> Position:
    at = events.get("at")
    return Position(offset=events.get("offset"), at=from_micros(at) if at else None)
