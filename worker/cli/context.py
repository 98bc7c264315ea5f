"""What the commands share: the operator's way into the store, and who the operator is."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from worker import settings as _settings
from worker.bootstrap.base import Base, Role, open_base
from worker.domain.access import ApiKey, Scope, Verb
from worker.domain.errors import ConfigurationError, NotFoundError
from worker.domain.grant import GrantId
from worker.domain.held import HeldGrant
from worker.monitoring import logs
from worker.settings import Settings
from worker.store import migrate
from worker.store.handout import HandoutRepository

T = TypeVar("T")


def operator() -> str:
    """Who acts, as the audit names it."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli:unknown"


@contextmanager
def opened() -> Iterator[Base]:
    """The store and all keys, for one command. Raises: ConfigurationError, schema too old."""
    settings = _settings.load()
    if told := no_store(settings):  # before anything is made where a command only looks
        raise ConfigurationError(told, code="no_store")
    logs.configure(json=settings.log_format == "json", level="warning", role="cli")
    base = open_base(settings, Role.CLI)
    try:
        if not migrate.is_current(base.engine):
            raise ConfigurationError("the database is not migrated: run `evergrant migrate`")
        yield base
    finally:
        base.close()


def no_store(settings: Settings) -> str | None:
    """Why there is nothing to look at: an embedded database that nobody has made yet."""
    file = Path(settings.database_url.partition(":///")[2])
    if not settings.embedded_database or file.exists():
        return None
    if settings.from_file:
        return f"the database is not migrated: run `evergrant up` or `migrate`, which makes {file}"
    return (
        f"no evergrant.toml in {Path.cwd()}, and no database at {file}: run it in Evergrant's own"
        " directory, or set EVERGRANT_CONFIG; `evergrant init` and `up` begin here"
    )


def run(work: Callable[[Base], Coroutine[Any, Any, T]]) -> T:
    """Open, run one coroutine, close."""
    with opened() as base:
        return asyncio.run(work(base))


def master_key() -> ApiKey:
    """What the operator may see: everything; whoever has the keyring has it anyway."""
    everything = Scope(verbs=frozenset(Verb) - {Verb.OWN})
    return ApiKey(name=operator(), digest=b"", scopes=(everything,))


def tenant_of(base: Base, named: str | None) -> str:
    """The tenant meant. Raises: ConfigurationError naming those there are."""
    tenants = base.settings.tenants
    if named is None and len(tenants) == 1:
        return next(iter(tenants))
    if named is not None and named in tenants:
        return named
    known = ", ".join(tenants) or "none; set AUTH0_DOMAIN or run `evergrant init`"
    raise ConfigurationError(
        f"no tenant {named!r}; there are: {known}" if named else f"say --tenant; there are: {known}"
    )


def grant_of(base: Base, text: str) -> HeldGrant:
    """The grant of that id. Raises: NotFoundError with where to find ids."""
    try:
        found = HandoutRepository(base.engine, base.audit).by_id(GrantId(UUID(text)))
    except ValueError:
        found = None
    if found is None:
        raise NotFoundError(f"no grant {text}; `evergrant grants list` shows ids")
    return found
