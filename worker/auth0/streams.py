"""Auth0's own streams towards us: how each stands, what it could not deliver, asking for more.

Sources: https://auth0.com/docs/customize/events/events-best-practices (failures, disabling),
https://auth0.com/docs/customize/log-streams/check-log-stream-health, and the models of
auth0-python 6.8 (statuses "enabled"/"disabled" and "active"/"paused"/"suspended").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

from worker.auth0.answers import text
from worker.auth0.budget import Priority
from worker.auth0.management import ManagementApi

_RUNNING = frozenset({"enabled", "active"})
_PAGE = 100
_FORCED = Priority.FORCED


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream of the tenant, log stream or event stream."""

    id: str
    kind: str  # "event_stream", "log_stream"
    name: str
    status: str  # as Auth0 says
    path: str  # of the URL it posts to; "": it is no webhook

    @property
    def running(self) -> bool:
        return self.status in _RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedDelivery:
    """An event that an event stream gave up on. `event` is the CloudEvent itself."""

    id: str
    event: Mapping[str, Any] | None = field(repr=False)

    @property
    def event_id(self) -> str:
        """What a redelivery is asked for by."""
        return text((self.event or {}).get("id")) or self.id


async def log_streams(api: ManagementApi) -> Sequence[Stream]:
    """Needs read:log_streams."""
    body = await api.get("log-streams", "/log-streams", {}, priority=_FORCED)
    return [
        _stream(one, "log_stream", _table(one, "sink").get("httpEndpoint"))
        for one in _tables(body, "logStreams")
    ]


async def event_streams(api: ManagementApi) -> Sequence[Stream]:
    """Needs read:event_streams."""
    body = await api.get("event-streams", "/event-streams", {"take": "50"}, priority=_FORCED)
    return [
        _stream(
            one,
            "event_stream",
            _table(_table(one, "destination"), "configuration").get("webhook_endpoint"),
        )
        for one in _tables(body, "eventStreams")
    ]


async def failed_deliveries(
    api: ManagementApi, stream_id: str, *, since: datetime, after: str | None = None
) -> tuple[Sequence[FailedDelivery], str | None]:
    """A page of what failed since then, and where the next one begins. Needs
    read:event_deliveries."""
    params = {"statuses": "failed", "take": str(_PAGE), "date_from": since.isoformat()}
    if after is not None:
        params["from"] = after
    path = f"/event-streams/{quote(stream_id, safe='')}/deliveries"
    body = await api.get("event-streams", path, params, priority=_FORCED)
    found = [
        FailedDelivery(id=id_, event=event if isinstance(event := one.get("event"), dict) else None)
        for one in _tables(body, "deliveries")
        if (id_ := text(one.get("id")))
    ]
    return found, text(body.get("next")) if isinstance(body, dict) else None


async def redeliver(api: ManagementApi, stream_id: str, event_id: str | None) -> None:
    """Ask for one failed event once more, or for all. Needs update:event_deliveries."""
    path = f"/event-streams/{quote(stream_id, safe='')}/redeliver"
    if event_id is None:
        body: dict[str, Any] = {"statuses": ["failed"]}
        await api.post("event-streams", path, body, priority=_FORCED)
    else:
        path = f"{path}/{quote(event_id, safe='')}"
        await api.post("event-streams", path, {}, priority=_FORCED)


def _stream(told: Mapping[str, Any], kind: str, url: Any) -> Stream:
    return Stream(
        id=text(told.get("id")) or "",
        kind=kind,
        name=text(told.get("name")) or "",
        status=text(told.get("status")) or "",
        path=_path(url),
    )


def _path(url: Any) -> str:
    try:
        return urlsplit(url).path if isinstance(url, str) else ""
    except ValueError:
        return ""


def _tables(body: Any, key: str) -> list[Mapping[str, Any]]:
    found = body.get(key) if isinstance(body, dict) else body
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _table(told: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = told.get(key)
    return found if isinstance(found, dict) else {}
