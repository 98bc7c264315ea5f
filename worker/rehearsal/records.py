"""What a tenant says about itself: log records and CloudEvents, in Auth0's shapes.

Shapes: https://github.com/auth0/auth0-log-schemas (log types) and
https://auth0.com/docs/customize/events (event streams). No token is ever part of either.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

Record = dict[str, Any]
CLIENT_ID = "rehearsalPortal000000000000000001"  # the application users log in to


def iso(at: float) -> str:
    """Seconds since the epoch as Auth0 writes them: milliseconds and a Z."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Log:
    """The tenant log: records in order of `log_id`, the youngest `keep` of them."""

    def __init__(self, *, tenant: str, clock: Callable[[], float], keep: int = 50_000) -> None:
        self._tenant = tenant
        self._clock = clock
        self._keep = keep
        self._sequence = 0
        self.ids: list[str] = []
        self.records: list[Record] = []

    def write(self, type_: str, description: str, **data: Any) -> Record:
        """Add a record and return it, without the stream's envelope."""
        now = self._clock()
        record = {
            "date": iso(now),
            "type": type_,
            "description": description,
            "client_id": CLIENT_ID,
            "client_name": "Rehearsal Portal",
            "ip": "203.0.113.7",
            "user_agent": "Rehearsal 1.0",
            "details": {},
            "$event_schema": {"version": "1.0.0"},
            "environment_name": "rehearsal-1",
            "tenant_name": self._tenant,
            **data,
            "log_id": self._next_id(now),
        }
        self.ids.append(record["log_id"])
        self.records.append(record)
        if len(self.ids) > 2 * self._keep:
            del self.ids[: -self._keep], self.records[: -self._keep]
        return record

    def after(self, log_id: str | None, take: int) -> list[Record]:
        """At most `take` records younger than `log_id`, oldest first."""
        start = bisect_right(self.ids, log_id) if log_id else 0
        return self.records[start : start + take]

    def _next_id(self, now: float) -> str:
        self._sequence += 1
        moment = datetime.fromtimestamp(now, UTC)
        stamp = moment.strftime("%Y%m%d%H%M%S") + f"{moment.microsecond // 1000:03d}"
        last = self.ids[-1] if self.ids else ""
        made = f"900{stamp}{1223372:024d}{self._sequence:012d}"
        return made if made > last else f"{last[:-12]}{self._sequence:012d}"


def enveloped(record: Record) -> Record:
    """As a log stream sends it."""
    return {"log_id": record["log_id"], "data": record}


def from_api(record: Record) -> Record:
    """As `GET /api/v2/logs` shows it: no envelope, `_id` beside `log_id`."""
    return {**record, "_id": record["log_id"], "isMobile": False}


def login_details(
    *, started: float, ended: float, count: int, prompt: Mapping[str, Any] | None
) -> Record:
    """`details` of an `s` record; no prompt: nobody asked the identity provider (SSO session)."""
    session = f"session{int(ended * 1000):x}"
    prompts = []
    if prompt:
        prompts = [
            {
                "name": "federated-authenticate",
                "initiatedAt": int(started * 1000),
                "completedAt": int(ended * 1000),
                **prompt,
                "stats": {"loginsCount": count},
                "session_id": session,
                "requiredCaptcha": False,
                "elapsedTime": int((ended - started) * 1000),
            }
        ]
    return {
        "prompts": prompts,
        "initiatedAt": int(started * 1000),
        "completedAt": int(ended * 1000),
        "elapsedTime": int((ended - started) * 1000) if prompt else None,
        "session_id": session,
    }


def api_details(
    method: str, path: str, status: int, *, body: Any = None, secrets: list[str] | None = None
) -> Record:
    """`details` of a `sapi` or `mgmt_api_read` record."""
    details: Record = {
        "request": {
            "method": method,
            "path": path,
            "query": {},
            "userAgent": "rehearsal",
            "channel": "api",
            "ip": "198.51.100.50",
            "body": body or {},
            "auth": {"strategy": "jwt", "user": {"name": "", "email": ""}},
        },
        "response": {"statusCode": status, "body": {}},
    }
    return {**details, "accessedSecrets": secrets} if secrets else details


def action_body(
    *,
    tenant: str,
    user_id: str,
    connection: Record,
    transaction_id: str,
    logins_count: int,
    at: float,
) -> Record:
    """What Evergrant's post-login Action posts."""
    return {
        "kind": "post-login",
        "tenant": tenant,
        "user_id": user_id,
        "connection": connection,
        "client_id": CLIENT_ID,
        "transaction_id": transaction_id,
        "protocol": "oidc-basic-profile",
        "logins_count": logins_count,
        "at": iso(at),
    }


def cloud_event(
    *, id_: str, type_: str, at: float, domain: str, stream: str, object_: Record, context: Record
) -> Record:
    """One event of an event stream (CloudEvents 1.0, structured JSON)."""
    tenant = domain.partition(".")[0]
    return {
        "specversion": "1.0",
        "id": id_,
        "type": type_,
        "source": f"urn:auth0:{domain}",
        "time": iso(at),
        "a0tenant": tenant,
        "a0stream": stream,
        "data": {"object": object_, "context": {**context, "tenant": {"id": tenant}}},
    }
