"""The web process: webhooks in, access tokens out. It opens access tokens and nothing else.

Stands up here because two doors meet in it, and doors may not know of each other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

from fastapi import FastAPI

from worker.api import KeyBook, Subjects, Trust, build_app
from worker.auth0 import KeySets
from worker.bootstrap.base import Base, Role, intake_of, open_base
from worker.bootstrap.ending import reach_of, tombstones_of
from worker.bootstrap.health import Health
from worker.domain.access import bootstrap_key
from worker.domain.errors import WorkerError
from worker.domain.secret import Secret
from worker.events import Intake
from worker.handout import Explain, Handout
from worker.ingress import TenantDoors, basic, bearer, custom, routes, verbatim
from worker.monitoring.logs import logger
from worker.providers import Catalogue
from worker.providers.vocabulary import duration
from worker.revocation import Requests
from worker.settings import Settings, TenantSettings
from worker.store.api_keys import ApiKeyRepository
from worker.store.handout import HandoutRepository

_log = logger(__name__)
_LOOK_AT_SPOOL = 2.0  # seconds


def build_web(settings: Settings) -> FastAPI:
    """The ASGI application for these settings."""
    base = open_base(settings, Role.WEB)
    intake = intake_of(base)
    doors = {name: doors_of(tenant) for name, tenant in settings.tenants.items()}
    health = Health(base.engine, clock=base.clock, offload=base.offload)
    grants = HandoutRepository(base.engine, base.audit)
    clock, offload = base.clock, base.offload
    return build_app(
        handout=Handout(
            grants=grants,
            vault=base.vault(),
            hints=base.hints,
            clock=clock,
            offload=offload,
            outlives_renewal=outlives_renewal(base.catalogue),
        ),
        explain=Explain(grants=grants, clock=clock, offload=offload),
        requests=Requests(
            grants=grants,
            tombstones=tombstones_of(base),
            reach=reach_of(base, base.connections()),
            clock=clock,
            offload=offload,
        ),
        keys=keys_of(base),
        subjects=subjects_of(settings),
        routes=[*routes(intake=intake, tenants=doors, offload=offload), *health.routes()],
        lifespan=_lifespan(base, intake),
    )


def keys_of(base: Base) -> KeyBook:
    return KeyBook(
        find=ApiKeyRepository(base.engine).find,
        clock=base.clock,
        offload=base.offload,
        bootstrap=[
            bootstrap_key(name=key.name, secret=key.secret, scope=key.scope)
            for key in base.settings.api_keys
        ],
    )


def subjects_of(settings: Settings) -> Subjects:
    """Whose access tokens prove for whom an app asks: the tenants that name an audience."""
    addresses = {
        name: tenant.base_url or f"https://{tenant.domain}"
        for name, tenant in settings.tenants.items()
    }
    trusted = {
        name: Trust(issuer=f"{addresses[name].rstrip('/')}/", audience=tenant.subject_audience)
        for name, tenant in settings.tenants.items()
        if tenant.subject_audience
    }
    return Subjects(trusted, KeySets(addresses))


def outlives_renewal(catalogue: Catalogue) -> Mapping[str, timedelta]:
    """Entry to how long an old access token outlives a renewal, where that is shorter than its
    own life: no cache may keep it for longer."""
    told = {
        name: duration(catalogue[name].lifetimes.access_after_refresh) for name in catalogue.names()
    }
    return {name: life for name, life in told.items() if life is not None}


def doors_of(tenant: TenantSettings) -> TenantDoors:
    """What opens one tenant's webhooks, as it was set at Auth0."""
    return TenantDoors(
        logs=tuple(verbatim(value) for value in tenant.logs_authorization),
        events=(
            *(bearer(token) for token in tenant.events_bearer),
            *(basic(*_parted(pair)) for pair in tenant.events_basic),
            *(custom(*_parted(header)) for header in tenant.events_header),
        ),
        actions=tenant.actions_secret,
    )


def _parted(pair: Secret) -> tuple[str, Secret]:
    name, _, value = pair.text().partition(":")
    return name.strip(), Secret(value.strip() or "\0")


def _lifespan(base: Base, intake: Intake) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        draining = asyncio.create_task(_drain_spool(base, intake))
        yield
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        base.close()

    return lifespan


async def _drain_spool(base: Base, intake: Intake) -> None:
    """What came while the store was away lies on this machine's disk, so this process moves it."""
    while True:
        await base.clock.sleep(_LOOK_AT_SPOOL)
        try:
            if moved := await base.offload(intake.drain_spool):
                _log.info("spool drained", deliveries=moved)
                base.hints.events()
        except WorkerError as error:
            _log.warning("spool waits", code=error.code)
