"""What the tenant sends: its log stream, its event stream, the call of its post-login Action.

Delivery rules as Auth0 documents them:

* log stream: at least once, unordered, three attempts, then it starts over with the record that
  failed (https://auth0.com/docs/customize/log-streams);
* event stream: four attempts 1, 2 and 4 s apart, any 4xx is final, disabled after 500 failures in
  a row (https://auth0.com/docs/customize/events/events-best-practices);
* Action: one signed call with a short time-out; errors are swallowed.

`pace` scales every waiting time; Auth0 publishes none for log streams, one second is assumed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from standardwebhooks import Webhook

from .records import Log, Record, enveloped, iso

ATTEMPTS = 3
EVENT_PAUSES = (1.0, 2.0, 4.0)
FAILURES_TO_DISABLE = 500


@dataclass(slots=True)
class Delivered:
    """What became of deliveries."""

    accepted: int = 0
    attempts: int = 0
    failed: int = 0  # given up (log stream: gone back to the start)
    last_status: int | None = None


@dataclass(slots=True, kw_only=True)
class LogStream:
    """The tenant log, followed from a cursor and posted in batches.

    Args:
        authorization: sent verbatim as the header's value.
        body_format: JSONLINES, JSONARRAY or JSONOBJECT.
        shuffled: records of a batch leave in random order.
        doubled: share of the batches that are sent twice.
        types: only these log codes; empty: all.
    """

    url: str
    authorization: str = field(repr=False)
    log: Log
    random_: random.Random
    body_format: str = "JSONARRAY"
    content_type: str = "application/json"
    batch: int = 100
    every: float = 0.1
    pace: float = 1.0
    shuffled: bool = False
    doubled: float = 0.0
    types: frozenset[str] = frozenset()
    id: str = "lst_0000000000000001"
    paused: bool = False
    suspended: bool = False  # by Auth0, after a week of failures in a row
    cursor: str | None = None
    result: Delivered = field(default_factory=Delivered)

    async def run(self, http: httpx.AsyncClient) -> None:
        """Follow the log until cancelled."""
        while True:
            if self.paused or self.suspended or not await self.send_next(http):
                await asyncio.sleep(self.every)

    async def send_next(self, http: httpx.AsyncClient) -> bool:
        """Send one batch; False when there is nothing to send or it could not be delivered."""
        found = self.log.after(self.cursor, self.batch)
        if not found:
            return False
        wanted = [record for record in found if not self.types or record["type"] in self.types]
        if wanted and not await self._delivered(http, wanted):
            self.result.failed += 1
            await asyncio.sleep(self.pace)  # then "the whole process restarts"
            return False
        self.cursor = found[-1]["log_id"]
        return True

    def as_json(self) -> Record:
        status = "suspended" if self.suspended else "paused" if self.paused else "active"
        sink = {"httpEndpoint": self.url, "httpContentFormat": self.body_format}
        return {"id": self.id, "name": "rehearsal", "type": "http", "status": status, "sink": sink}

    async def _delivered(self, http: httpx.AsyncClient, records: list[Record]) -> bool:
        if self.shuffled:
            self.random_.shuffle(records)
        body = _body([enveloped(record) for record in records], self.body_format)
        times = 2 if self.random_.random() < self.doubled else 1
        return all([await self._posted(http, body, len(records)) for _ in range(times)])

    async def _posted(self, http: httpx.AsyncClient, body: bytes, count: int) -> bool:
        headers = {"Authorization": self.authorization, "Content-Type": self.content_type}
        for attempt in range(ATTEMPTS):
            self.result.attempts += 1
            self.result.last_status = await _post(http, self.url, body, headers)
            if (self.result.last_status or 0) // 100 == 2:
                self.result.accepted += count
                return True
            if attempt + 1 < ATTEMPTS:
                await asyncio.sleep(self.pace * 2**attempt)
        return False


@dataclass(slots=True)
class Delivery:
    """One event on its way."""

    id: str
    event: Record
    status: str = "pending"  # pending | delivered | failed
    attempts: list[Record] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class EventStream:
    """CloudEvents, posted one by one.

    Args:
        headers: the authorization of the destination (bearer, basic or a header of one's own).
        types: event types subscribed to; empty: all.
    """

    id: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    content_type: str = "application/json"
    types: frozenset[str] = frozenset()
    pace: float = 1.0
    enabled: bool = True
    failures_in_row: int = 0
    result: Delivered = field(default_factory=Delivered)
    kept: deque[Delivery] = field(default_factory=lambda: deque(maxlen=5000))  # failed ones
    _queue: asyncio.Queue[Delivery] = field(default_factory=asyncio.Queue)

    def offer(self, event: Record) -> None:
        """Take an event; a disabled stream does not keep it."""
        if self.enabled and (not self.types or event["type"] in self.types):
            self._queue.put_nowait(Delivery(event["id"], event))

    def redeliver(self, event_id: str | None) -> None:
        """Try failed deliveries again: one, or all."""
        for delivery in [one for one in self.kept if event_id in (None, one.id)]:
            self.kept.remove(delivery)
            self._queue.put_nowait(delivery)

    async def run(self, http: httpx.AsyncClient, *, at_once: int = 8) -> None:
        """Deliver until cancelled; `at_once` deliveries overtake each other."""
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(self._work(http))

    async def _work(self, http: httpx.AsyncClient) -> None:
        while True:
            await self.deliver(http, await self._queue.get())

    async def deliver(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        """All attempts of one delivery."""
        body = json.dumps(delivery.event).encode()
        headers = {**self.headers, "Content-Type": self.content_type}
        for pause in (*EVENT_PAUSES, None):
            self.result.attempts += 1
            status = self.result.last_status = await _post(http, self.url, body, headers)
            outcome = "delivered" if (status or 0) // 100 == 2 else "failed"
            delivery.attempts.append(
                {"status": outcome, "timestamp": iso(datetime.now(UTC).timestamp())}
            )
            if outcome == "delivered":
                self._succeeded(delivery)
                return
            if pause is None or (status is not None and 400 <= status < 500):
                break
            await asyncio.sleep(pause * self.pace)
        self._failed(delivery)

    def _succeeded(self, delivery: Delivery) -> None:
        delivery.status = "delivered"
        self.failures_in_row = 0
        self.result.accepted += 1

    def _failed(self, delivery: Delivery) -> None:
        delivery.status = "failed"
        self.kept.append(delivery)
        self.result.failed += 1
        self.failures_in_row += 1
        self.enabled = self.enabled and self.failures_in_row < FAILURES_TO_DISABLE

    def as_json(self) -> Record:
        return {
            "id": self.id,
            "name": "rehearsal",
            "status": "enabled" if self.enabled else "disabled",
            "subscriptions": [{"event_type": type_} for type_ in sorted(self.types)],
            "destination": {
                "type": "webhook",
                "configuration": {
                    "webhook_endpoint": self.url,
                    "webhook_authorization": {"method": "bearer"},
                },
            },
        }

    def deliveries_json(self) -> list[Record]:
        return [
            {
                "id": one.id,
                "event_stream_id": self.id,
                "status": one.status,
                "event_type": one.event["type"],
                "attempts": one.attempts,
                "event": one.event,
            }
            for one in self.kept
        ]


@dataclass(slots=True, kw_only=True)
class ActionCall:
    """The post-login Action's signed call (https://www.standardwebhooks.com)."""

    url: str
    secret: str = field(repr=False)  # whsec_…
    timeout: float = 3.0
    result: Delivered = field(default_factory=Delivered)

    async def call(self, http: httpx.AsyncClient, id_: str, body: Record) -> None:
        """Send once; an error is nobody's business but the counter's."""
        now, text = datetime.now(UTC), json.dumps(body)
        headers = {
            "webhook-id": id_,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(self.secret).sign(id_, now, text),
            "Content-Type": "application/json",
        }
        self.result.attempts += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.timeout):
                status = await _post(http, self.url, text.encode(), headers)
                self.result.last_status = status
                ok = (status or 0) // 100 == 2
                self.result.accepted += ok
                self.result.failed += not ok


def authorization_headers(method: str, **values: str) -> dict[str, str]:
    """Header of an event stream's destination.

    "bearer": token; "basic": username, password; "custom_header": header_key, header_value.
    """
    if method == "bearer":
        return {"Authorization": f"Bearer {values['token']}"}
    if method == "basic":
        pair = f"{values['username']}:{values['password']}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {values["header_key"]: values["header_value"]}


def _body(records: list[Record], body_format: str) -> bytes:
    forms: Mapping[str, Any] = {
        "JSONLINES": lambda: "\n".join(json.dumps(record) for record in records),
        "JSONARRAY": lambda: json.dumps(records),
        "JSONOBJECT": lambda: json.dumps({"logs": records}),
    }
    text: str = forms[body_format]()
    return text.encode()


async def _post(
    http: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]
) -> int | None:
    """The status, or None when no answer came."""
    try:
        response = await http.post(url, content=body, headers=headers)
    except httpx.HTTPError:
        return None
    return response.status_code
