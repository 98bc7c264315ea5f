"""`evergrant status`: how things stand, in one screen."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from worker.bootstrap.base import Base
from worker.bootstrap.health import status as read_status
from worker.bootstrap.working import ALIVE
from worker.cli import context
from worker.cli.output import Json, out, print_json, print_marked, print_table
from worker.domain.errors import TransientError
from worker.store.overview import Counted, Overview
from worker.sync import explain_problem

_SILENT = 120.0  # seconds; a sweep may take a while


def status(
    ready: Annotated[
        bool, typer.Option("--ready", help="Only say by the exit code whether all is well here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Grants per provider, and per tenant where there are several; what waits, what is stopped.
    Reads the store, so it works with everything else down.
    """
    with context.opened() as base:
        if ready:
            _stand_or_fall(base)
            return
        now = base.clock.now()
        overview = Overview(base.engine)
        told = read_status(overview, now)
        lines = overview.grants(now)
    if as_json:
        print_json(told)
        return
    rows = [{"provider": line.provider, **_counts(line)} for line in lines.providers]
    empty = "no grants yet: nobody has logged in"
    print_table(rows, ["provider", *_COLUMNS], empty=empty)
    if len(lines.tenants) > 1:
        rows = [{"tenant": line.tenant, **_counts(line)} for line in lines.tenants]
        print_table(rows, ["tenant", *_COLUMNS], empty="", title="")
    _waiting("events", told["inbox"])
    _waiting("notices", told["outbox"])
    for one in told["stopped_connections"]:
        line = f"{one['tenant']}/{one['connection']}: {one['why']}"
        print_marked("stopped", line, style="red")
    for one in told["connection_problems"]:
        why = explain_problem(one["problem"])
        print_marked("problem", f"{one['tenant']}/{one['connection']}: {why}", style="yellow")
    for one in told["stopped_streams"]:
        what = f"{one['kind'].replace('_', ' ')} {one['stream']}"
        line = f"{one['tenant']}: {what}, so Auth0 does not tell us"
        print_marked(one["status"], line, style="red")
    for one in told["blocked_hosts"]:
        line = f"{one['host']} until {one['until']}: {one['why']}"
        print_marked("waiting", line, style="yellow")


_COLUMNS = (
    "grants", "valid", "need_login", "end_soon", "not_renewable", "overdue", "next_renewal",
)  # fmt: skip


def _counts(line: Counted) -> dict[str, Any]:
    return {
        "grants": line.grants,
        "valid": line.valid,
        "need_login": line.needs_reauth,
        "end_soon": line.ending,
        "not_renewable": line.unrenewable,
        "overdue": line.overdue,
        "next_renewal": line.next_due,
    }


def _stand_or_fall(base: Base) -> None:
    """For a container's health check. Raises: TransientError.

    That the store answers with our schema was seen on opening it. A worker also shows here that
    its loop turns: it touches a file in the data directory.
    """
    alive = base.settings.data_dir / ALIVE
    if alive.exists() and time.time() - alive.stat().st_mtime > _SILENT:
        raise TransientError("the worker of this data directory stands still", code="silent")


def _waiting(what: str, queue: dict[str, Any]) -> None:
    failed = f", {queue['failed']} failed (`evergrant events failed`)" if queue["failed"] else ""
    if queue["waiting"] or failed:
        out.print(f"{what}: {queue['waiting']} wait{failed}")
