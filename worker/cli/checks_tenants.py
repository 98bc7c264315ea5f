"""Each tenant at Auth0, its connections, and its users whose grants are handed to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from worker.auth0 import open_client
from worker.auth0.scopes import (
    missing_following_scopes,
    missing_scopes,
    missing_useful_scopes,
)
from worker.bootstrap.base import Base
from worker.bootstrap.departing import LOOK_AGAIN
from worker.bootstrap.forgetting import KEEP
from worker.bootstrap.pulling import apis_of, credentials_of
from worker.cli.finding import Finding, Status
from worker.cli.foreseeing import foreseen
from worker.cli.output import advice, counted
from worker.cli.providers import SAID_ANYWAY, connection_rows
from worker.domain.errors import WorkerError
from worker.domain.held import Withheld
from worker.settings import TenantSettings
from worker.store import outbox
from worker.store.connection_care import ConnectionCare
from worker.store.findings import FindingRepository
from worker.store.following import FollowingRepository
from worker.store.notices import NoticeRepository
from worker.store.tenants import TenantRepository
from worker.store.withholding import WithholdingRepository
from worker.sync import explain_problem

_CLOCK_MAY_DIFFER = timedelta(seconds=30)


def tenants(base: Base) -> Iterator[Finding]:
    yield from asyncio.run(_ask_tenants(base))


async def _ask_tenants(base: Base) -> list[Finding]:
    found: list[Finding] = []
    async with open_client() as http:
        apis = apis_of(base, http, TenantRepository(base.engine, base.vault()))
        for name, told in base.settings.tenants.items():
            label = f"tenant {name}"
            if not (
                told.logs_authorization
                or told.events_bearer
                or told.actions_secret
                or told.events_basic
                or told.events_header
            ):
                found.append(Finding(label, Status.WARN, "no webhook secret is set: logins are"
                    " found only by polling the log", "`evergrant init` shows how"))  # fmt: skip
            try:
                granted = await apis[name].granted_scopes(fresh=True)
                found += _scopes(label, granted)
                found += _following(label, granted, told)
                found += _streams(base, name)
                found += _deprecations(base, name)
                found += await _clock(label, http, credentials_of(told).address)
                found += await foreseen(base, apis[name])
            except WorkerError as error:
                found.append(_unasked(label, error, credentials_of(told).address))
    return found


def _unasked(label: str, error: WorkerError, address: str) -> Finding:
    """Auth0 could not be asked, or refused. What a setting mends says so itself."""
    why = str(error).removeprefix(f"{label.removeprefix('tenant ')}: ")
    if error.code == "auth0_away":
        why = f"{why} ({address})"
    return Finding(label, Status.FAIL, why, advice(error))


def _scopes(label: str, granted: str) -> Iterator[Finding]:
    needed, useful = missing_scopes(granted), missing_useful_scopes(granted)
    where = "grant it: Auth0 → Applications → APIs → Auth0 Management API → Machine to Machine"
    for scope, effect in needed.items():
        yield Finding(label, Status.FAIL, f"lacks {scope}: {effect}", where)
    for scope, effect in useful.items():
        yield Finding(label, Status.WARN, f"lacks {scope}: {effect}", where)
    if not needed:
        yield Finding(label, Status.OK, "reachable, and every needed scope is granted")


def _following(label: str, granted: str, told: TenantSettings) -> Iterator[Finding]:
    """What finding lost events needs, as far as it is set up."""
    lacking = missing_following_scopes(
        granted,
        log_stream=bool(told.logs_authorization),
        event_stream=bool(told.events_bearer or told.events_basic or told.events_header),
        events_api=told.events_api,
    )
    for scope, effect in lacking.items():
        yield Finding(label, Status.WARN, f"lacks {scope}: {effect}", "grant it, as above")


def _streams(base: Base, tenant: str) -> Iterator[Finding]:
    for line in FollowingRepository(base.engine).streams(tenant):
        if not line.running:
            told = f"{line.kind.replace('_', ' ')} {line.name} ({line.id}) is {line.status}"
            yield Finding(
                f"tenant {tenant}", Status.FAIL, f"{told} since {line.since:%Y-%m-%d %H:%M}",
                "resume it: Auth0 → Monitoring → Streams, or Event Streams",
            )  # fmt: skip


def _deprecations(base: Base, tenant: str) -> Iterator[Finding]:
    """Auth0's `depnote` that named our client, for as long as its notice is kept."""
    if told := NoticeRepository(base.engine).told(tenant, "auth0_deprecation"):
        count, at, why = told
        yield Finding(
            f"tenant {tenant}", Status.WARN,
            f"Auth0 says that something our application does is to end: told"
            f" {counted(count, 'time')} in {KEEP.days} days, last {at:%Y-%m-%d %H:%M} ({why})",
            "Auth0 → Monitoring → Logs, type:depnote, tells what and until when",
        )  # fmt: skip


async def _clock(label: str, http: httpx.AsyncClient, address: str) -> list[Finding]:
    try:
        answer = await http.get(f"{address}/.well-known/openid-configuration")
        theirs = parsedate_to_datetime(answer.headers["date"])
    except (httpx.HTTPError, KeyError, ValueError):
        return []
    apart = abs(datetime.now(UTC) - theirs)
    if apart <= _CLOCK_MAY_DIFFER:
        return [Finding(label, Status.OK, "the clocks agree")]
    told = f"our clock and Auth0's are {apart.total_seconds():.0f} s apart"
    return [Finding(label, Status.FAIL, told, "run NTP: signatures and expiry depend on it")]


def connections(base: Base) -> Iterator[Finding]:
    shut = base.vault().closed()
    for tenant in base.settings.tenants:
        if tenant not in shut:
            yield from _connections_of(base, tenant)


def _connections_of(base: Base, tenant: str) -> Iterator[Finding]:
    rows = connection_rows(base, tenant)
    told = FindingRepository(base.engine).all(tenant)
    lines = ConnectionCare(base.engine, base.audit).lines(tenant, now=base.clock.now())
    users = {line.name: line.users for line in lines}
    for row in rows:
        yield from _of_connection(row, told.get(row["connection"], ()), users[row["connection"]])
    label, well = f"tenant {tenant}", sum(_is_well(row, told) for row in rows)
    if not rows:
        yield Finding(label, Status.OK, "no connection is known here yet: they come with logins")
    elif well == len(rows):
        yield Finding(label, Status.OK, f"connections that are well: all {well}")
    else:
        yield Finding(label, Status.WARN, f"connections that are well: {well} of {len(rows)}")


def _of_connection(row: Mapping[str, Any], codes: Iterable[str], users: int) -> Iterator[Finding]:
    """A stop is a failure: nothing of the connection is renewed until a person acts."""
    label = f"connection {row['tenant']}/{row['connection']}"
    concerned = f" ({counted(row['grants'], 'grant')} of {counted(users, 'user')})"
    if problem := row["problem"]:
        status = Status.FAIL if row["stopped"] else Status.WARN
        stopped = "stopped, nothing of it is renewed: " if row["stopped"] else ""
        yield Finding(label, status, f"{stopped}{problem}{concerned}", row["advice"])
    for code in codes:
        if not (problem and code in SAID_ANYWAY):
            yield Finding(label, Status.WARN, explain_problem(code) + concerned)
    for concern in row["concerns"]:
        yield Finding(label, Status.WARN, concern)


def _is_well(row: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    return not row["problem"] and row["connection"] not in told


def users(base: Base) -> Iterator[Finding]:
    """Users whose grants are handed to nobody."""
    store = WithholdingRepository(base.engine, base.audit, outbox.add)
    for tenant in base.settings.tenants:
        overdue = base.clock.now() - base.settings.deletion_quiet - LOOK_AGAIN
        missing = store.users(tenant, Withheld.USER_MISSING)
        undecided = [user for user in missing if user.since < overdue]
        if len(missing) > len(undecided):
            gone = counted(len(missing) - len(undecided), "user")
            told = f"gone, and to be ended after the quiet time: {gone}"
            yield Finding(f"tenant {tenant}", Status.OK, told)
        if undecided:
            yield Finding(
                f"tenant {tenant}",
                Status.WARN,
                f"Auth0 no longer knows {counted(len(undecided), 'user')}, and its search by"
                " identity cannot be asked whether they were linked to others; their tokens are"
                " kept, and handed to nobody",
                "`evergrant erasure waiting`, then `evergrant erasure confirm USER`",
            )
        blocked = len(store.users(tenant, Withheld.USER_BLOCKED))
        if blocked:
            told = f"the tokens of {counted(blocked, 'blocked user')} are handed to nobody"
            yield Finding(f"tenant {tenant}", Status.OK, told)
