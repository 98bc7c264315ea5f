"""The way to each tenant's Management API, and the pull that reads and merges."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from worker.auth0 import Budget, Credentials, ManagementApi, plan_named
from worker.bootstrap.base import Base
from worker.settings import TenantSettings
from worker.store.connections import ConnectionRepository
from worker.store.findings import FindingRepository
from worker.store.merging import MergeRepository
from worker.store.pulls import PullRepository
from worker.store.tenants import TenantRepository
from worker.sync import Puller
from worker.vault import AesVault


def apis_of(base: Base, http: httpx.AsyncClient, vault: AesVault) -> Mapping[str, ManagementApi]:
    """One per tenant, each under its own budget. Raises: ConfigurationError, unknown plan."""
    tenants = TenantRepository(base.engine, vault)
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


def puller_of(
    base: Base,
    apis: Mapping[str, ManagementApi],
    vault: AesVault,
    connections: ConnectionRepository,
) -> Puller:
    return Puller(
        apis,
        pulls=PullRepository(base.engine),
        merges=MergeRepository(base.engine, vault, base.audit, actor=f"{base.role}:{base.node}"),
        connections=connections,
        findings=FindingRepository(base.engine),
        catalogue=base.catalogue,
        clock=base.clock,
        offload=base.offload,
    )
