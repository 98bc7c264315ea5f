"""What runs, and whether it keeps up: broker, workers, web, what is overdue."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import httpx

from worker.bootstrap.base import Base
from worker.cli.finding import Finding, Status
from worker.store.dead_messages import DeadMessageRepository
from worker.store.overview import Overview


def broker(base: Base) -> Iterator[Finding]:
    told = base.celery.connection().as_uri()
    try:
        with base.celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=4)
    except Exception as error:  # each transport has errors of its own
        yield Finding(
            "broker", Status.FAIL, f"{told}: {type(error).__name__}",
            "renewal goes on without it, but slower: workers look at the store by themselves",
        )  # fmt: skip
        return
    yield Finding("broker", Status.OK, told)
    workers = base.celery.control.ping(timeout=1.0)
    if workers:
        yield Finding("workers", Status.OK, f"{len(workers)} answer")
    else:
        yield Finding("workers", Status.WARN, "none answers", "start one: `evergrant worker`, `up`")


def web(base: Base) -> Iterator[Finding]:
    url = f"{base.settings.base_url}/readyz"
    try:
        answer = httpx.get(url, timeout=3, trust_env=False)
    except httpx.HTTPError as error:
        told = f"{url}: {type(error).__name__}"
        yield Finding("web", Status.WARN, told, "start it: `evergrant web`, or `evergrant up`")
        return
    status = Status.OK if answer.status_code == 200 else Status.FAIL
    yield Finding("web", status, f"{url} says {answer.status_code}", answer.text[:200])


def backlog(base: Base) -> Iterator[Finding]:
    now, overview = base.clock.now(), Overview(base.engine)
    inbox, late = overview.inbox(), now - 3 * base.settings.tick - timedelta(seconds=60)
    overdue = [n for n in overview.grants(now).providers if n.next_due and n.next_due < late]
    for line in overdue:
        age = (now - line.next_due).total_seconds() if line.next_due else 0
        yield Finding(
            "backlog", Status.WARN, f"{line.provider}: {line.overdue} overdue, by {age:.0f} s",
            "are workers running? does the provider answer? `evergrant status`",
        )  # fmt: skip
    if inbox.failed:
        yield Finding(
            "events", Status.WARN, f"{inbox.failed} failed or unreadable",
            "`evergrant events failed`, then `evergrant events replay`",
        )  # fmt: skip
    if dead := len(DeadMessageRepository(base.engine).newest(1000)):
        yield Finding("events", Status.WARN, f"{dead} dead queue messages", "`… events failed`")
    for host, until, why in overview.blocked_hosts(now):
        yield Finding("hosts", Status.WARN, f"{host} is left alone until {until:%H:%M:%S}: {why}")
    if not overdue and not inbox.failed:
        yield Finding("backlog", Status.OK, "nothing overdue, no event failed")
