"""The way to each tenant's Management API, and whatever reads over it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

import httpx

from worker.auth0 import Budget, Credentials, ManagementApi, plan_named
from worker.bootstrap.base import Base
from worker.bootstrap.departing import Departing
from worker.settings import TenantSettings
from worker.store import outbox
from worker.store.comparing import Comparison
from worker.store.connections import ConnectionRepository
from worker.store.findings import FindingRepository
from worker.store.merging import MergeRepository
from worker.store.pulls import PullRepository
from worker.store.rounds import RoundRepository
from worker.store.tenants import TenantRepository
from worker.sync import Diff, Puller
from worker.sync.puller import CONFIRM_GONE
from worker.vault import TenantVaults


class Reading:
    """Everything that reads Auth0, for one process; made on its event loop."""

    def __init__(
        self,
        base: Base,
        http: httpx.AsyncClient,
        *,
        vault: TenantVaults,
        connections: ConnectionRepository,
    ) -> None:
        self._base = base
        self._vault = vault
        self.tenants = TenantRepository(base.engine, vault)
        self._findings = FindingRepository(base.engine, outbox.add)
        self.apis = apis_of(base, http, self.tenants)
        self.puller = Puller(
            self.apis,
            pulls=PullRepository(base.engine),
            merges=MergeRepository(
                base.engine, vault, base.audit, actor=f"{base.role}:{base.node}"
            ),
            connections=connections,
            findings=self._findings,
            catalogue=base.catalogue,
            clock=base.clock,
            offload=base.offload,
            on_gone=self.forget,
            on_connection_gone=self.look_at_everybody,
            confirm_gone=min(CONFIRM_GONE, base.settings.deletion_confirm),
            serves_blocked={
                name for name, told in base.settings.tenants.items() if told.blocked_users == "keep"
            },
        )
        self.departing = Departing(base, self.apis, findings=self._findings, pull=self.puller)

    async def forget(self, tenant: str, user_id: str) -> None:
        """Hand out nothing of a user whom Auth0 does not know, and end it after a quiet time."""
        await self.departing.departed(tenant, user_id)

    async def look_at_everybody(self, tenant: str) -> None:
        """Begin a reconcile now and not at night: no event tells whom it concerns."""
        begin = partial(RoundRepository(self._base.engine).begin, tenant, anew=True)
        await self._base.offload(begin, now=self._base.clock.now(), every=timedelta(0))

    def diff(self, tenant: str) -> Diff:
        """Compares the tenant with what we hold, and changes nothing."""
        base = self._base
        return Diff(
            self.apis[tenant],
            self.puller,
            Comparison(base.engine, self._vault).compare,
            self._findings,
            clock=base.clock,
            offload=base.offload,
        )


def apis_of(
    base: Base, http: httpx.AsyncClient, tenants: TenantRepository
) -> Mapping[str, ManagementApi]:
    """One per tenant, each under its own budget. Raises: ConfigurationError, unknown plan."""
    clock, offload = base.clock, base.offload
    return {
        name: ManagementApi(
            name,
            credentials_of(told),
            tenants=tenants,
            budget=Budget(
                name,
                plan_named(told.plan, requests_per_second=told.requests_per_second),
                tenants,
                clock=clock,
                offload=offload,
            ),
            http=http,
            clock=clock,
            offload=offload,
        )
        for name, told in base.settings.tenants.items()
    }


def credentials_of(tenant: TenantSettings) -> Credentials:
    return Credentials(
        domain=tenant.domain,
        client_id=tenant.client_id,
        client_secret=tenant.client_secret,
        private_key=tenant.private_key,
        base_url=tenant.base_url,
    )
