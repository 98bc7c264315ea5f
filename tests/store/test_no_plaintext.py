"""Nothing secret lies on the store's disk in the open, in any disguise (I15, T11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Engine, text

from tests.canary import canary, hunt
from tests.clock import T0, FakeClock
from tests.grants import GrantTable
from tests.store.test_connections import GOOGLE
from worker.domain.access import Scope
from worker.domain.ports import ApiToken
from worker.domain.secret import Secret
from worker.store.api_keys import ApiKeyRepository
from worker.store.connections import ConnectionRepository
from worker.store.engine import writing
from worker.store.tenants import TenantRepository
from worker.vault import AesVault


def test_no_token_or_secret_lies_in_the_open(
    engine: Engine,
    vault: AesVault,
    clock: FakeClock,
    store_files: Callable[[], list[Path]],
) -> None:
    access, refresh = canary("access"), canary("refresh")
    client, header, api = canary("client_secret"), canary("header"), canary("api_token")
    GrantTable(engine, vault, clock).add(access_token=access, refresh_token=refresh)
    secretive = replace(
        GOOGLE,
        client_secret=Secret(client),
        headers={"X-Key": Secret(header)},
        options={"client_secret": client, "admin_refresh_token": refresh},
    )
    ConnectionRepository(engine, vault).put(secretive, options_seen=True)
    token = ApiToken(token=Secret(api), expires_at=T0, scope="read:users")
    TenantRepository(engine, vault).put_token("acme", token)
    key = ApiKeyRepository(engine).create("app", scope=Scope(), now=T0).text()
    assert hunt([access, refresh, client, header, api, key], store_files()) == []


def test_the_hunt_would_have_found_one(
    engine: Engine, store_files: Callable[[], list[Path]]
) -> None:
    """Against a hunt in the wrong place."""
    told = canary("told")
    with writing(engine) as connection:
        values = {"name": told}
        connection.execute(text("INSERT INTO counters (name, value) VALUES (:name, 1)"), values)
    assert {hit.label for hit in hunt([told], store_files())} == {"told"}
