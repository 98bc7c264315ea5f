"""The doctor's checks. Each looks at one thing, changes nothing, and never raises."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from worker import settings as _settings
from worker.bootstrap.base import Base, Role, open_base
from worker.bootstrap.keyrings import Ring, belongs, rings_of
from worker.cli import context
from worker.cli.audit import problems_of
from worker.cli.checks_running import backlog, broker, events, web, workers
from worker.cli.checks_tenants import connections, tenants, users
from worker.cli.finding import Finding, Status
from worker.cli.output import advice, counted
from worker.cli.run import flower_arguments
from worker.domain.errors import WorkerError
from worker.journal import lossy, not_readable
from worker.settings import Settings
from worker.store import migrate, rewrap
from worker.store.api_keys import ApiKeyRepository
from worker.store.durability import durability_problems
from worker.vault import Keyring, KeyState

_LITTLE_SPACE = 1 << 30  # bytes


def examine(*, deep: bool = False) -> list[Finding]:
    """All checks, in the order in which one depends on another."""
    try:
        settings = _settings.load()
    except WorkerError as error:
        return [Finding("settings", Status.FAIL, str(error), "mend it and run doctor again")]
    found = [*_settings_are_sound(settings)]
    if told := context.no_store(settings):
        return [*found, Finding("database", Status.FAIL, told)]
    try:
        base = open_base(settings, Role.CLI)
    except WorkerError as error:
        return [*found, Finding("settings", Status.FAIL, str(error))]
    try:
        for check in (_keyring, _database, _keyrings, _data_dir, _journals, broker, web):
            found += _safely(check, base)
        if all(f.status is not Status.FAIL for f in found if f.name in ("keyring", "database")):
            found += _of_the_store(base, deep=deep)
    finally:
        base.close()
    return found


def _of_the_store(base: Base, *, deep: bool) -> list[Finding]:
    """What can be asked once the store opens."""
    checks = [_sealed, workers, backlog, events, _api_keys, tenants, connections, users]
    return [one for check in [*checks, *[_audit] * deep] for one in _safely(check, base)]


def _safely(check: Callable[[Base], Iterable[Finding]], base: Base) -> list[Finding]:
    name = check.__name__.strip("_").replace("_", " ")
    try:
        return list(check(base))
    except WorkerError as error:
        return [Finding(name, Status.FAIL, str(error), advice(error))]
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
    yield Finding("keyring", Status.OK, f"{counted(len(keys), 'key')}, each of them tried")


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
        told = f"{counted(len(keyring.keys), 'key')}, each of them tried: {ring.address}"
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
            ring.name, Status.FAIL, f"key {key_id} is disabled or not in {ring.address}, and seals"
            f" {counted(count, 'ciphertext')}",
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


def _journals(base: Base) -> Iterator[Finding]:
    """Of this data directory; each node has its own."""
    place: Path = base.settings.data_dir / "journal"
    for told in not_readable(place):
        yield Finding(
            "journals", Status.FAIL, "a file is not read, so what it holds is not replayed", told
        )
    if names := lossy(place):
        yield Finding(
            "journals", Status.WARN, f"records are lost of {', '.join(names)}",
            "the rest was replayed, and no token is taken for safe that these may have renewed: the"
            " grants concerned wait up to ten minutes longer. Look for what is wrong with the disk;"
            " told for a day",
        )  # fmt: skip


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


def _audit(base: Base) -> Iterator[Finding]:
    problems = problems_of(base)
    for problem in problems[:20]:
        yield Finding("audit", Status.FAIL, str(problem), "somebody changed the log: find out who")
    if not problems:
        yield Finding("audit", Status.OK, "every entry is as it was written")
