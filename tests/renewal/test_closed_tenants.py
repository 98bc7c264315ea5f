"""A tenant whose keyring does not open, a connection whose secrets do not: in nobody's way."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import update

from tests.planted import plant_connection, row_of
from tests.simulation.virtual_time import run
from tests.simulation.world import PROVIDER
from worker.domain.exchange import Rotation
from worker.store.engine import writing
from worker.store.tables import ConnectionRow
from worker.vault import (
    OF_A_TENANT,
    AesVault,
    Keyring,
    KeyringSource,
    Purpose,
    TenantVaults,
    tenants,
)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The keyring of `acme`; the other tenants use the deployment's."""
    monkeypatch.setattr(tenants, "LOOK_AGAIN", 0.0)
    KeyringSource(str(tmp_path / "acme.json")).create(Keyring.generate(OF_A_TENANT))
    return tmp_path / "acme.json"


@pytest.fixture
def vaults(path):
    """As of a process that starts now."""
    shared = AesVault(Keyring.generate())
    return lambda: TenantVaults(shared, {"acme": str(path)}, open_=AesVault.from_source)


def test_grants_of_a_closed_tenant_wait_while_the_others_are_renewed(world, vaults, path):
    """Neither claimed nor sent nor blamed; and renewed when the keyring is there again."""

    async def story():
        w = world(Rotation.F)
        w.vault = vaults()
        plant_connection(w.store, tenant="beta", name=PROVIDER)
        mine, other = w.plant("r0"), w.plant("s0", tenant="beta")
        path.rename(path.with_suffix(".away"))
        w.vault = vaults()
        process = w.start()
        assert await process.drain() == {"renewed": 1}
        assert row_of(w.store, other).generation == 1
        assert row_of(w.store, mine).fence == 0, "somebody claimed it"
        path.with_suffix(".away").rename(path)
        while w.vault.closed():
            await asyncio.sleep(1)
        await asyncio.sleep(2)
        assert await process.drain() == {"renewed": 1}
        assert row_of(w.store, mine).generation == 1

    run(story())


def test_a_key_that_is_not_there_stops_no_connection(world):
    """It is ours that is missing: when it is back, the grants are renewed by themselves."""

    async def story():
        w = world(Rotation.F)
        ring = Keyring.generate()
        w.vault = AesVault(ring)
        grant = w.plant("r0")
        rotated = ring.rotate("rt")
        w.vault = AesVault(rotated.disable(ring.primary(Purpose.REFRESH).id))
        assert await w.start().drain() == {"postponed": 1}
        assert row_of(w.store, grant).last_error == "key_disabled"
        assert row_of(w.store, grant).due_at - w.now() > timedelta(minutes=5), "looked at too often"
        assert w.config().stopped is None
        assert w.network.sent == []
        w.vault = AesVault(rotated)
        await asyncio.sleep(900)
        assert await w.start().drain() == {"renewed": 1}

    run(story())


def test_a_connection_whose_secrets_do_not_open_is_in_no_others_way(world):
    async def story():
        w = world(Rotation.F)
        plant_connection(w.store, name="other")
        mine, other = w.plant("r0"), w.plant("s0", connection="other")
        with writing(w.store) as db:
            this = update(ConnectionRow).where(ConnectionRow.name == PROVIDER)
            db.execute(this.values(secrets=b"\3 of somebody else"))
        assert await w.start().drain() == {"renewed": 1, "postponed": 1}
        assert row_of(w.store, other).generation == 1
        assert row_of(w.store, mine).last_error == "not_ours"
        assert len(w.network.sent) == 1

    run(story())
