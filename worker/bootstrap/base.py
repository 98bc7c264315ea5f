"""What every role shares: settings, clock, store, catalogue, keys as far as the role may have them.

Built once per process and after any fork: database connections do not survive one.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Engine

from worker.bootstrap.clock import SystemClock
from worker.bootstrap.keyrings import vaults_of
from worker.bootstrap.runtime import Threads
from worker.domain.ports import Vault
from worker.domain.secret import Secret
from worker.events import Intake, Spool, TenantFacts
from worker.events.facts import auth0_name_of
from worker.journal import node_of
from worker.providers import Catalogue, load_catalogue
from worker.providers.complaints import Origin
from worker.queue.app import celery_app
from worker.queue.hints import CeleryHints
from worker.settings import Settings, TenantSettings
from worker.store.audit import AuditLog
from worker.store.connections import ConnectionRepository, Overrides
from worker.store.engine import open_engine, reading
from worker.store.hints import HintRepository
from worker.store.inbox import InboxRepository
from worker.store.store_time import store_time
from worker.vault import Purpose, TenantVaults


class Role(StrEnum):
    """Which process this is; decides which keys it is given (I17)."""

    WEB = "web"
    WORKER = "worker"
    SCHEDULER = "scheduler"
    CLI = "cli"


# The web process opens access tokens and nothing else; the scheduler opens nothing.
PURPOSES: Mapping[Role, frozenset[Purpose]] = {
    Role.WEB: frozenset({Purpose.ACCESS}),
    Role.WORKER: frozenset(Purpose),
    Role.SCHEDULER: frozenset(),
    Role.CLI: frozenset(Purpose),
}
_STORE_THREADS: Mapping[Role, int] = {Role.WEB: 8, Role.WORKER: 8, Role.CLI: 4}


@dataclass(frozen=True)
class Base:
    """One process's share of the outside world."""

    settings: Settings
    role: Role
    clock: SystemClock
    engine: Engine
    offload: Threads
    catalogue: Catalogue
    celery: Any
    hints: CeleryHints
    node: str
    audit: AuditLog
    _vaults: list[TenantVaults] = field(default_factory=list, repr=False)

    def vault(self) -> TenantVaults:
        """The process's one vault. Raises: ConfigurationError, with the command that makes a
        keyring; TransientError, what unwraps it is away."""
        if not self._vaults:
            self._vaults.append(vaults_of(self.settings, PURPOSES[self.role], self.engine))
        return self._vaults[0]

    def connections(self) -> ConnectionRepository:
        """Connections with their secrets, or without where this role may not open those."""
        may = Purpose.CONFIG in PURPOSES[self.role]
        vault = self.vault() if may else cast(Vault, _NoSecrets())
        return ConnectionRepository(self.engine, vault, overrides=overrides_of(self.settings))

    def store_now(self) -> datetime:
        """The store's time: what is compared with what others wrote goes by that, wherever this
        host's clock is. Raises: TransientError."""
        with reading(self.engine) as connection:
            return store_time(connection, self.clock.now())

    def close(self) -> None:
        self.hints.close()
        self.offload.close()
        self.engine.dispose()


def open_base(settings: Settings, role: Role, *, celery: Any = None) -> Base:
    """Open everything that is opened lazily anyway; nothing is connected yet."""
    _write_no_core_dumps()
    clock = SystemClock()
    node = node_of(settings.data_dir)
    threads = _STORE_THREADS.get(role, 2)
    engine = open_engine(settings.database_url, pool_size=threads)
    catalogue = load_entries(settings)
    app = celery or celery_app(settings, catalogue.names())
    return Base(
        settings=settings,
        role=role,
        clock=clock,
        engine=engine,
        offload=Threads(threads),
        catalogue=catalogue,
        celery=app,
        hints=CeleryHints(app, HintRepository(engine), now=clock.now, tick=settings.tick),
        node=node,
        audit=AuditLog(node),
    )


def _write_no_core_dumps() -> None:
    """A core file would hold keys and tokens in the clear; whoever debugs may raise it again."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def load_entries(settings: Settings) -> Catalogue:
    """The catalogue with the operator's entries, its connections' keys checked as well."""
    path = Path(settings.source)
    catalogue = load_catalogue(
        settings.providers,
        allow_loopback=settings.allow_loopback,
        auth0_domains={name: tenant.domain for name, tenant in settings.tenants.items()},
        config_path=path if path.is_file() else None,
    )
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for tenant, told in settings.tenants.items():
        for name, connection in told.connections.items():
            origin = Origin(
                name=path.name,
                text=text,
                prefix=f"tenants.{tenant}.connections.",
                kind="connection",
            )
            catalogue.check_connection(name, connection.overrides, origin)
    return catalogue


def overrides_of(settings: Settings) -> Overrides:
    """What an operator set per connection, as the connections' repository lays it over."""
    return {
        (tenant, name): {
            **connection.overrides,
            "required_scopes": list(connection.required_scopes),
            "enabled": connection.enabled,
            **({"client_id": connection.client_id} if connection.client_id else {}),
            **({"client_secret": connection.client_secret} if connection.client_secret else {}),
        }
        for tenant, told in settings.tenants.items()
        for name, connection in told.connections.items()
    }


def facts_of(name: str, tenant: TenantSettings) -> TenantFacts:
    """What telling our own echo from news takes."""
    return TenantFacts(
        name=name,
        own_client_id=tenant.client_id,
        auth0_name=auth0_name_of(tenant.domain),
        database_connections=frozenset(tenant.database_connections),
    )


def intake_of(base: Base) -> Intake:
    """Where events become durable: the inbox, or the spool while the store is away."""
    return Intake(
        inbox=InboxRepository(base.engine),
        tenants={name: facts_of(name, told) for name, told in base.settings.tenants.items()},
        spool=Spool(base.settings.data_dir / "spool"),
        ring=base.hints.events,
        clock=base.clock,
    )


class _NoSecrets:
    """Stands in for the vault where connections are read for their names only (I17)."""

    def open_config(self, _sealed: bytes, *, tenant: str, scope: str) -> Secret:
        return Secret('{"client_secret": null, "headers": {}}')
