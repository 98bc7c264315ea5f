"""What runs, and whether it keeps up: broker, workers, web, what is overdue."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import httpx

from worker.bootstrap.base import Base
from worker.cli.finding import Finding, Status
from worker.cli.output import counted, span
from worker.store.dead_messages import DeadMessageRepository
from worker.store.overview import Overview, ProviderLine


def broker(base: Base) -> Iterator[Finding]:
    told = _address(base)
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


def _address(base: Base) -> str:
    """Of the broker, without its password."""
    if base.settings.broker_url.startswith("filesystem:"):
        return f"files in {base.settings.data_dir / 'queue'}"
    return str(base.celery.connection().as_uri()).replace("//:**@", "//")  # no user was named


def workers(base: Base) -> Iterator[Finding]:
    """None that answers is a failure as soon as there is something to do."""
    ping = base.celery.control.ping
    if answers := ping(timeout=1.0) or ping(timeout=4.0):  # a busy one may be slow to answer
        yield Finding("workers", Status.OK, f"{counted(len(answers), 'worker')} answering")
        return
    overdue = sum(line.overdue for line in Overview(base.engine).grants(base.clock.now()).providers)
    status = Status.FAIL if overdue else Status.WARN
    waits = f", and {counted(overdue, 'grant')} overdue" if overdue else ""
    yield Finding("workers", status, f"none answers{waits}", "start one: `evergrant worker`, `up`")


def web(base: Base) -> Iterator[Finding]:
    url = f"{base.settings.base_url}/readyz"
    try:
        answer = httpx.get(url, timeout=3, trust_env=False)
    except httpx.HTTPError as error:
        yield Finding(
            "web", Status.WARN, f"asked {url}: {type(error).__name__}",
            "here: start it, `evergrant web` or `up`; where it runs on another machine:"
            " `EVERGRANT_HOST=that.machine evergrant doctor` asks there (and EVERGRANT_PORT)",
        )  # fmt: skip
        return
    status = Status.OK if answer.status_code == 200 else Status.FAIL
    yield Finding("web", status, f"{url} says {answer.status_code}", answer.text[:200])


def backlog(base: Base) -> Iterator[Finding]:
    """A moment's delay is usual: a worker that misses a tick or two takes it up with the next."""
    now, overview = base.clock.now(), Overview(base.engine)
    patience = 3 * base.settings.tick + timedelta(seconds=60)
    due = [line for line in overview.grants(now).providers if line.overdue]
    late = [line for line in due if _age(line, now) > patience]
    for line in late:
        age = span(_age(line, now).total_seconds())
        yield Finding(
            "backlog", Status.WARN, f"{line.provider}: {line.overdue} overdue, by {age} at most",
            "are workers running? does the provider answer? `evergrant status`",
        )  # fmt: skip
    if not late:
        many = sum(line.overdue for line in due)
        within = f"{many} overdue, none for longer than {span(patience.total_seconds())}"
        yield Finding("backlog", Status.OK, within if many else "nothing overdue")
    for host, until, why in overview.blocked_hosts(now):
        yield Finding("hosts", Status.WARN, f"{host} is left alone until {until:%H:%M:%S}: {why}")


def _age(line: ProviderLine, now: datetime) -> timedelta:
    """Of the longest overdue."""
    return now - line.next_due if line.next_due else timedelta()


def events(base: Base) -> Iterator[Finding]:
    failed = Overview(base.engine).inbox().failed
    if failed:
        yield Finding(
            "events", Status.WARN, f"{failed} failed or unreadable",
            "`evergrant events failed`, then `evergrant events replay`",
        )  # fmt: skip
    dead = len(DeadMessageRepository(base.engine).newest(1000))
    if dead:
        told = counted(dead, "dead queue message")
        yield Finding("events", Status.WARN, told, "`evergrant events failed`")
    if not (failed or dead):
        yield Finding("events", Status.OK, "none failed")
