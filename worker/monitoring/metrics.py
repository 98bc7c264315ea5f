"""Every metric of the house, named once. Labels have few values: never a user, never a grant.

With PROMETHEUS_MULTIPROC_DIR set before this module is imported, all processes of one data
directory count into files there, and the `/metrics` of the web process shows what workers did
(https://prometheus.github.io/client_python/multiprocess/). Without it each process counts alone.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    start_http_server,
    values,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector


def _in_memory_at_worst(in_a_file: Callable[..., Any]) -> Callable[..., Any]:
    """A count whose file cannot grow, on a full disk, is kept in this process's memory.

    Whoever counts is in the midst of something that matters more: an attempt that was ended by
    its own counting would hold its grant until the process ends.
    """

    def make(*told: Any, **more: Any) -> Any:
        try:
            return in_a_file(*told, **more)
        except Exception:  # OSError; and whatever a half-grown file leads to afterwards
            return values.MutexValue(*told, **more)  # type: ignore[no-untyped-call]  # untyped there

    return make


# Before any metric is made, and asked again: under `celery -A …` Flower's plugin has imported the
# library before our settings could say that processes count together.
values.ValueClass = _in_memory_at_worst(values.get_value_class())  # type: ignore[no-untyped-call]  # untyped there

# Seconds. The scale serves both a demo (lifetimes of seconds) and an hour-long token.
_LATENESS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400)
_LIFE = (0, 1, 2, 5, 10, 30, 60, 300, 600, 900, 1800, 3600, 7200, 28800, 86400)
_CALL = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 120)
_SYNC = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2)

RENEWALS = Counter("evergrant_renewals", "Renewals by verdict.", ["provider", "verdict"])
TENANT_RENEWALS = Counter(
    "evergrant_tenant_renewals", "The same by tenant, over all providers.", ["tenant", "verdict"]
)
LATENESS = Histogram(
    "evergrant_renewal_lateness_seconds",
    "From the moment a renewal was due to the commit of its tokens.",
    ["provider"],
    buckets=_LATENESS,
)
TIME_TO_EXPIRY = Histogram(
    "evergrant_renewal_time_to_expiry_seconds",
    "Life left in the old access token when its successor was committed; below 0: too late.",
    ["provider"],
    buckets=_LIFE,
)
EXCHANGES = Counter(
    "evergrant_exchanges", "Requests to token endpoints by fate on the wire.", ["provider", "fate"]
)
EXCHANGE_SECONDS = Histogram(
    "evergrant_exchange_seconds", "One exchange at a provider.", ["provider"], buckets=_CALL
)
IN_FLIGHT = Gauge(
    "evergrant_exchanges_in_flight",
    "Exchanges under way.",
    ["provider"],
    multiprocess_mode="livesum",
)
TAKEOVERS = Counter(
    "evergrant_takeovers", "Claims retaken from an attempt that died.", ["provider"]
)
PROVIDER_CHANGES = Counter(
    "evergrant_provider_changes",
    "Connections on which a provider treats refresh tokens otherwise than its entry says.",
    ["provider", "change"],
)
INTERNAL_ERRORS = Counter(
    "evergrant_internal_errors", "What broke within a renewal, by the step that broke.", ["what"]
)
KEYRING_OPEN = Gauge(
    "evergrant_keyring_open",
    "1: the tenant's own keyring opens; 0: a process goes without that tenant.",
    ["tenant"],
    multiprocess_mode="livemin",
)
JOURNAL_SYNC = Histogram(
    "evergrant_journal_sync_seconds", "One group fdatasync of the journal.", buckets=_SYNC
)
EVENTS = Counter(
    "evergrant_events", "Events by door and fate.", ["tenant", "source", "trigger", "outcome"]
)
EVENT_LATENCY = Histogram(
    "evergrant_event_latency_seconds",
    "From an event's arrival to the end of its last action.",
    ["tenant"],
    buckets=_LATENESS,
)
ACTIONS = Counter("evergrant_actions", "Runs of bound actions.", ["tenant", "action", "outcome"])
PULLS = Counter("evergrant_pulls", "Reads of a user or connection at Auth0.", ["tenant", "outcome"])
AUTH0_REQUESTS = Counter(
    "evergrant_auth0_requests", "Management API requests by outcome.", ["tenant", "outcome"]
)
DIVERGENCE = Counter(
    "evergrant_divergence",
    "What a reconcile found that no event had told: missing_here, newer_upstream, orphaned_here.",
    ["tenant", "kind"],
)
HANDOUTS = Counter(
    "evergrant_handouts", "Access tokens asked for, by outcome.", ["tenant", "outcome"]
)
NOTICES = Counter("evergrant_notices", "Notices sent to apps.", ["kind", "outcome"])
REVOCATIONS = Counter("evergrant_revocations", "Revocations upstream.", ["provider", "outcome"])
HINTS = Counter("evergrant_hints", "Hints given to the broker.", ["queue", "outcome"])
TASKS = Counter("evergrant_tasks", "Celery tasks run here.", ["task", "outcome"])


GaugeRow = tuple[str, str, tuple[str, ...], Sequence[tuple[tuple[str, ...], float]]]
"""Name, help, label names, [(label values, value), …]."""


def observe_all(histogram: Histogram, seconds: Iterable[float]) -> None:
    """The same as `observe` of each, for a third of its cost where there are many."""
    counts = [0] * len(histogram._upper_bounds)
    total = 0.0
    for value in seconds:
        counts[bisect_left(histogram._upper_bounds, value)] += 1
        total += value
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(total)


class StoreCollector(Collector):
    """Gauges that only the store knows, read at each scrape."""

    def __init__(self, read: Callable[[], Iterable[GaugeRow]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        try:
            rows = list(self._read())
        except Exception:  # a scrape must survive a store that is away
            yield GaugeMetricFamily("evergrant_store_up", "1: the store answers.", value=0)
            return
        yield GaugeMetricFamily("evergrant_store_up", "1: the store answers.", value=1)
        for name, help_, labels, lines in rows:
            family = GaugeMetricFamily(name, help_, labels=list(labels))
            for label_values, value in lines:
                family.add_metric(list(label_values), value)
            yield family


def exposition(gauges: Collector | None = None) -> tuple[bytes, str]:
    """Body and content type of `/metrics`, over all processes when they count together."""
    registry = _registry()
    if gauges is not None:
        registry.register(gauges)
    return generate_latest(registry), "text/plain; version=0.0.4; charset=utf-8"


def serve(host: str, port: int) -> None:
    """`/metrics` of a process that has no web server, from a thread."""
    start_http_server(port, addr=host, registry=_registry())


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped there
    else:
        registry.register(_Everything())
    return registry


class _Everything(Collector):
    """What this process alone has counted."""

    def collect(self) -> Iterable[Metric]:
        return REGISTRY.collect()
