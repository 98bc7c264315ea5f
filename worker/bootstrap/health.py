"""`/healthz`, `/readyz`, `/metrics`, `/status`: counts and codes only, no user, no token.

Not for the internet: publish `/hooks` and `/v1`, keep these for the machines around.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker import __version__
from worker.domain.errors import WorkerError
from worker.domain.ports import Clock, Offload
from worker.monitoring.metrics import GaugeRow, StoreCollector, exposition
from worker.store import migrate
from worker.store.overview import Counted, GrantLines, Overview, ProviderLine, TenantLine

_KEPT = 20  # a scan of all grants is repeated after this many times what it took
_AT_LEAST = 2.0  # seconds


class Health:
    """Answers for one process."""

    def __init__(self, engine: Engine, *, clock: Clock, offload: Offload) -> None:
        self._engine = engine
        self._overview = Overview(engine)
        self._clock = clock
        self._offload = offload
        self._gauges = StoreCollector(self._rows)
        self._lines = (float("-inf"), GrantLines(providers=[], tenants=[]))
        self._current = False

    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/status", self._status, methods=["GET"]),
        ]

    async def _healthz(self, _request: Request) -> Response:
        """The process runs. Asks nobody else, or an outage of theirs would restart us."""
        return _json({"status": "ok", "version": __version__})

    async def _readyz(self, _request: Request) -> Response:
        """Requests can be served: the store answers and its schema is ours."""
        try:
            self._current = self._current or await self._offload(migrate.is_current, self._engine)
            await self._offload(self._overview.events_due, self._clock.now())
        except WorkerError as error:
            return _json({"status": "not ready", "why": error.code}, 503)
        if not self._current:
            return _json({"status": "not ready", "why": "schema"}, 503)
        return _json({"status": "ready"})

    async def _metrics(self, _request: Request) -> Response:
        body, media_type = await self._offload(exposition, self._gauges)
        return Response(body, media_type=media_type)

    async def _status(self, _request: Request) -> Response:
        try:
            return _json(await self._offload(status, self._overview, self._clock.now()))
        except WorkerError as error:
            return _json({"status": "not ready", "why": error.code}, 503)

    def _rows(self) -> Iterator[GaugeRow]:
        now = self._clock.now()
        grants = self._grants(now)
        yield from _of_grants(grants.providers, now)
        yield from _of_tenants(grants.tenants, now)
        inbox, outbox = self._overview.inbox(), self._overview.outbox()
        waits = [
            (("inbox",), _age(inbox.oldest_at, now)),
            (("outbox",), _age(outbox.oldest_at, now)),
        ]
        counts = [(("inbox",), float(inbox.waiting)), (("outbox",), float(outbox.waiting))]
        yield "evergrant_queue_age_seconds", "Age of the oldest waiting row.", ("queue",), waits
        yield "evergrant_queue_waiting", "Rows that wait.", ("queue",), counts
        yield (
            "evergrant_events_failed", "Events that gave up or could not be read.", (),
            [((), float(inbox.failed))],
        )  # fmt: skip
        stopped = [((t, c), 1.0) for t, c, _ in self._overview.stopped_connections()]
        labels = ("tenant", "connection")
        yield "evergrant_connection_stopped", "1: nothing of it is renewed.", labels, stopped
        problems = [(line, 1.0) for line in self._overview.connection_problems()]
        yield (
            "evergrant_connection_problem", "1: to be mended at Auth0.",
            ("tenant", "connection", "problem"), problems,
        )  # fmt: skip
        budgets = [((t, b), level) for t, b, level in self._overview.budgets()]
        yield "evergrant_auth0_budget", "Requests left.", ("tenant", "bucket"), budgets

    def _grants(self, now: datetime) -> GrantLines:
        fresh_until, lines = self._lines
        began = time.monotonic()
        if began >= fresh_until:
            lines = self._overview.grants(now)
            took = time.monotonic() - began
            self._lines = (time.monotonic() + max(_AT_LEAST, _KEPT * took), lines)
        return lines


def status(overview: Overview, now: datetime) -> dict[str, Any]:
    """How things stand, as `/status` and `evergrant status` tell it."""
    inbox, outbox, grants = overview.inbox(), overview.outbox(), overview.grants(now)
    return {
        "version": __version__,
        "at": _told(now),
        "providers": [_line(line) for line in grants.providers],
        "tenants": [_line(line) for line in grants.tenants],
        "inbox": {**asdict(inbox), "oldest_at": _told(inbox.oldest_at)},
        "outbox": {**asdict(outbox), "oldest_at": _told(outbox.oldest_at)},
        "stopped_connections": [
            {"tenant": tenant, "connection": name, "why": why}
            for tenant, name, why in overview.stopped_connections()
        ],
        "connection_problems": [
            {"tenant": tenant, "connection": name, "problem": code}
            for tenant, name, code in overview.connection_problems()
        ],
        "stopped_streams": [
            {"tenant": tenant, "kind": kind, "stream": id_, "status": status}
            for tenant, kind, id_, status in overview.stopped_streams()
        ],
        "blocked_hosts": [
            {"host": host, "until": _told(until), "why": why}
            for host, until, why in overview.blocked_hosts(now)
        ],
    }


def _line(line: Counted) -> dict[str, Any]:
    return {**asdict(line), "next_due": _told(line.next_due)}


def _told(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


def _of_grants(lines: list[ProviderLine], now: datetime) -> Iterator[GaugeRow]:
    states = ("active", "suspect", "needs_reauth", "quarantined")
    yield (
        "evergrant_grants", "Grants by state.", ("provider", "state"),
        [((n.provider, s), float(getattr(n, s))) for n in lines for s in states],
    )  # fmt: skip
    yield (
        "evergrant_grants_valid_ratio", "Share of live grants whose token is valid now.",
        ("provider",),
        [((n.provider,), n.valid / alive) for n in lines if (alive := n.active + n.suspect)],
    )  # fmt: skip
    overdue = [((n.provider,), float(n.overdue)) for n in lines]
    yield "evergrant_due_backlog", "Grants due and not yet renewed.", ("provider",), overdue
    ages = [((n.provider,), _age(n.next_due, now)) for n in lines]
    yield "evergrant_due_age_seconds", "Age of the longest overdue.", ("provider",), ages


def _of_tenants(lines: list[TenantLine], now: datetime) -> Iterator[GaugeRow]:
    """One tenant's trouble does not show in an entry that many tenants use."""
    yield (
        "evergrant_tenant_grants_valid_ratio",
        "Share of a tenant's live grants whose token is valid now.", ("tenant",),
        [((n.tenant,), n.valid / alive) for n in lines if (alive := n.active + n.suspect)],
    )  # fmt: skip
    needing = [((n.tenant,), float(n.needs_reauth)) for n in lines]
    yield (
        "evergrant_tenant_grants_needing_login", "Grants that only a login mends.", ("tenant",),
        needing,
    )  # fmt: skip
    ages = [((n.tenant,), _age(n.next_due, now)) for n in lines]
    yield "evergrant_tenant_due_age_seconds", "Age of the longest overdue.", ("tenant",), ages


def _age(moment: datetime | None, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds()) if moment else 0.0


def _json(answer: object, status: int = 200) -> Response:
    body = msgspec.json.encode(answer)
    return Response(body, status, media_type="application/json")
