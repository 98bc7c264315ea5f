"""The doctor's checks. Each looks at one thing, changes nothing, and never raises."""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from worker import settings as _settings
from worker.auth0 import open_client
from worker.auth0.scopes import (
    missing_following_scopes,
    missing_scopes,
    missing_useful_scopes,
)
from worker.bootstrap.base import Base, Role, open_base
from worker.bootstrap.departing import LOOK_AGAIN
from worker.bootstrap.forgetting import KEEP
from worker.bootstrap.keyrings import Ring, belongs, rings_of
from worker.bootstrap.pulling import apis_of, credentials_of
from worker.cli.audit import problems_of
from worker.cli.finding import Finding, Status
from worker.cli.foreseeing import foreseen
from worker.cli.providers import SAID_ANYWAY, connection_rows
from worker.cli.run import flower_arguments
from worker.domain.errors import KeyringError, WorkerError
from worker.domain.held import Withheld
from worker.settings import Settings, TenantSettings
from worker.store import migrate, outbox, rewrap
from worker.store.api_keys import ApiKeyRepository
from worker.store.connection_care import ConnectionCare
from worker.store.dead_messages import DeadMessageRepository
from worker.store.durability import durability_problems
from worker.store.findings import FindingRepository
from worker.store.following import FollowingRepository
from worker.store.notices import NoticeRepository
from worker.store.overview import Overview
from worker.store.tenants import TenantRepository
from worker.store.withholding import WithholdingRepository
from worker.sync import explain_problem
from worker.vault import Keyring, KeyState

_CLOCK_MAY_DIFFER = timedelta(seconds=30)
_LITTLE_SPACE = 1 << 30  # bytes


def examine(*, deep: bool = False) -> list[Finding]:
    """All checks, in the order in which one depends on another."""
    try:
        settings = _settings.load()
    except WorkerError as error:
        return [Finding("settings", Status.FAIL, str(error), "mend it and run doctor again")]
    found = [*_settings_are_sound(settings)]
    try:
        base = open_base(settings, Role.CLI)
    except WorkerError as error:
        return [*found, Finding("settings", Status.FAIL, str(error))]
    try:
        for check in (_keyring, _database, _keyrings, _data_dir, _broker, _web):
            found += _safely(check, base)
        if all(f.status is not Status.FAIL for f in found if f.name in ("keyring", "database")):
            for check in (_sealed, _backlog, _api_keys, _tenants, _connections, _users):
                found += _safely(check, base)
            if deep:
                found += _safely(_audit, base)
    finally:
        base.close()
    return found


def _safely(check: Callable[[Base], Iterable[Finding]], base: Base) -> list[Finding]:
    name = check.__name__.strip("_").replace("_", " ")
    try:
        return list(check(base))
    except WorkerError as error:
        return [Finding(name, Status.FAIL, str(error))]
    except Exception as error:  # a check that breaks is a finding, not the end of the others
        return [Finding(name, Status.FAIL, f"the check itself failed: {type(error).__name__}")]


def _settings_are_sound(settings: Settings) -> Iterator[Finding]:
    yield Finding("settings", Status.OK, f"read from {settings.source}")
    for warning in settings.warnings:
        yield Finding("settings", Status.WARN, warning, "remove or rename it")
    if settings.allow_loopback:
        yield Finding(
            "settings", Status.WARN, "EVERGRANT_ALLOW_LOOPBACK=1: plain http and private addresses"
            " are accepted as tenants and token endpoints", "never in production",
        )  # fmt: skip
    if not settings.tenants:
        yield Finding("settings", Status.FAIL, "no tenant", "run `evergrant init`, or set AUTH0_…")
    try:
        flower_arguments(settings)
    except WorkerError as error:
        yield Finding("flower", Status.FAIL, str(error))


def _keyring(base: Base) -> Iterator[Finding]:
    keys = rings_of(base.settings)[0].vault().keyring.keys
    yield Finding("keyring", Status.OK, f"{len(keys)} keys, each of them tried")


def _keyrings(base: Base) -> Iterator[Finding]:
    """Tenants' own; one that does not open is in no other tenant's way."""
    for ring in rings_of(base.settings)[1:]:
        who = ", ".join(ring.tenants)
        advice = f"nothing of {who} is renewed or handed out until it is mended: docs/keys.md"
        try:
            keyring = ring.vault().keyring
        except WorkerError as error:
            yield Finding(ring.name, Status.FAIL, str(error), advice)
            continue
        if not belongs(base.engine, keyring, ring.whose):
            told = f"{ring.address} is another keyring: it opens none of the tokens in the store"
            yield Finding(ring.name, Status.FAIL, told, advice)
            continue
        told = f"{len(keyring.keys)} keys, each of them tried: {ring.address}"
        yield Finding(ring.name, Status.OK, told)


def _database(base: Base) -> Iterator[Finding]:
    told = base.engine.url.render_as_string(hide_password=True)
    revision = migrate.revision_of(base.engine)
    if not migrate.is_current(base.engine):
        advice = "run `evergrant migrate`"
        yield Finding("database", Status.FAIL, f"{told}: schema is {revision or 'empty'}", advice)
        return
    yield Finding("database", Status.OK, f"{told}, schema {revision}")
    for problem in durability_problems(base.engine):
        yield Finding("database", Status.FAIL, problem, "set it right: docs/store.md")


def _sealed(base: Base) -> Iterator[Finding]:
    """Everything in the store opens with a key that its keyring has and may use."""
    for ring in rings_of(base.settings):
        with suppress(WorkerError):  # it does not open, which was told already
            yield from _opening(base, ring, ring.load())


def _opening(base: Base, ring: Ring, keyring: Keyring) -> Iterator[Finding]:
    usable = {key.id for key in keyring.keys if key.state is not KeyState.DISABLED}
    missing = rewrap.unreadable(base.engine, usable, ring.whose)
    option = f" --tenant {ring.tenants[0]}" if ring.tenants else ""
    for key_id, count in sorted(missing.items()):
        yield Finding(
            ring.name, Status.FAIL, f"{count} ciphertexts need key {key_id}, which is disabled or"
            f" not in {ring.address}",
            f"`evergrant keys enable {key_id}{option}`, or the right keyring",
        )  # fmt: skip
    if not missing:
        yield Finding(ring.name, Status.OK, "everything in the store opens with it")


def _data_dir(base: Base) -> Iterator[Finding]:
    path: Path = base.settings.data_dir
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding("data dir", Status.WARN, f"{path}: others may look in", f"chmod 700 {path}")
    free = shutil.disk_usage(path).free
    if free < _LITTLE_SPACE:
        yield Finding(
            "data dir", Status.WARN, f"{path}: {free >> 20} MiB free",
            "the journal of rotated tokens lies here: make room",
        )  # fmt: skip
    else:
        yield Finding("data dir", Status.OK, f"{path}, {free >> 30} GiB free")


def _broker(base: Base) -> Iterator[Finding]:
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


def _web(base: Base) -> Iterator[Finding]:
    url = f"{base.settings.base_url}/readyz"
    try:
        answer = httpx.get(url, timeout=3, trust_env=False)
    except httpx.HTTPError as error:
        told = f"{url}: {type(error).__name__}"
        yield Finding("web", Status.WARN, told, "start it: `evergrant web`, or `evergrant up`")
        return
    status = Status.OK if answer.status_code == 200 else Status.FAIL
    yield Finding("web", status, f"{url} says {answer.status_code}", answer.text[:200])


def _backlog(base: Base) -> Iterator[Finding]:
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


def _api_keys(base: Base) -> Iterator[Finding]:
    keys, now = ApiKeyRepository(base.engine).all(), base.clock.now()
    live = [key for key in keys if key.live(now)]
    total = len(live) + len(base.settings.api_keys)
    advice = "`evergrant api-keys create NAME --scope …`"
    status = Status.OK if total else Status.WARN
    yield Finding("api keys", status, f"{total} live", advice)
    for key in live:
        if key.expires_at and key.expires_at - now < timedelta(days=7):
            yield Finding("api keys", Status.WARN, f"{key.name} ends {key.expires_at:%Y-%m-%d}")


def _tenants(base: Base) -> Iterator[Finding]:
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
                granted = await apis[name].granted_scopes()
                found += _scopes(label, granted)
                found += _following(label, granted, told)
                found += _streams(base, name)
                found += _deprecations(base, name)
                found += await _clock(label, http, credentials_of(told).address)
                found += await foreseen(base, apis[name])
            except KeyringError as error:
                found.append(Finding(label, Status.FAIL, str(error)))
            except WorkerError as error:
                found.append(Finding(label, Status.FAIL, str(error), "is the M2M application"
                    " authorised for the Management API?"))  # fmt: skip
    return found


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
            f"Auth0 says that something our application does is to end: told {count} times in"
            f" {KEEP.days} days, last {at:%Y-%m-%d %H:%M} ({why})",
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


def _connections(base: Base) -> Iterator[Finding]:
    findings = FindingRepository(base.engine)
    shut = base.vault().closed()
    for tenant in base.settings.tenants:
        if tenant in shut:
            continue
        rows = connection_rows(base, tenant)
        told = findings.all(tenant)
        lines = ConnectionCare(base.engine, base.audit).lines(tenant, now=base.clock.now())
        users = {line.name: line.users for line in lines}
        for row in rows:
            label = f"connection {tenant}/{row['connection']}"
            codes = [
                code
                for code in told.get(row["connection"], ())
                if not (row["problem"] and code in SAID_ANYWAY)
            ]
            for problem in filter(None, [row["problem"], *map(explain_problem, codes)]):
                concerned = f" ({row['grants']} grants of {users[row['connection']]} users)"
                yield Finding(label, Status.WARN, problem + concerned, row["advice"])
            for concern in row["concerns"]:
                yield Finding(label, Status.WARN, concern)
        well = sum(not row["problem"] and row["connection"] not in told for row in rows)
        yield Finding(f"tenant {tenant}", Status.OK, f"{well} of {len(rows)} connections are well")


def _users(base: Base) -> Iterator[Finding]:
    """Users whose grants are handed to nobody."""
    store = WithholdingRepository(base.engine, base.audit, outbox.add)
    for tenant in base.settings.tenants:
        overdue = base.clock.now() - base.settings.deletion_quiet - LOOK_AGAIN
        missing = store.users(tenant, Withheld.USER_MISSING)
        undecided = [user for user in missing if user.since < overdue]
        if len(missing) > len(undecided):
            told = f"{len(missing) - len(undecided)} users have gone, and end after the quiet time"
            yield Finding(f"tenant {tenant}", Status.OK, told)
        if undecided:
            yield Finding(
                f"tenant {tenant}",
                Status.WARN,
                f"Auth0 no longer knows {len(undecided)} users, and its search by identity cannot"
                " be asked whether they were linked to others; their tokens are kept, and handed"
                " to nobody",
                "`evergrant erasure waiting`, then `evergrant erasure confirm USER`",
            )
        blocked = len(store.users(tenant, Withheld.USER_BLOCKED))
        if blocked:
            told = f"the tokens of {blocked} blocked users are handed to nobody"
            yield Finding(f"tenant {tenant}", Status.OK, told)


def _audit(base: Base) -> Iterator[Finding]:
    problems = problems_of(base)
    for problem in problems[:20]:
        yield Finding("audit", Status.FAIL, str(problem), "somebody changed the log: find out who")
    if not problems:
        yield Finding("audit", Status.OK, "every entry is as it was written")
