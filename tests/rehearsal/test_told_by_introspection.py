"""Salesforce on the stage: the engine renews, asks when the token ends, and keeps to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.planted import plant, plant_connection, row_of
from tests.rehearsal.conversation import held
from tests.simulation.world import FakePull
from worker import settings
from worker.bootstrap.base import Base, Role, open_base
from worker.bootstrap.renewing import engine_of
from worker.domain.secret import Secret
from worker.providers import HttpTokenEndpoint
from worker.rehearsal import ConnectionSpec, RunningStage, StageSettings, rehearsal, write_config
from worker.rehearsal.config import TENANT
from worker.store import migrate
from worker.store.connections import scope_of
from worker.vault import Keyring

LIFETIME = 1800  # seconds; the org's session time-out, which no token answer tells


@pytest.fixture
def hall() -> Iterator[RunningStage]:
    specs = [ConnectionSpec(name="crm", profile="salesforce")]
    with rehearsal(StageSettings(lifetimes={"*": LIFETIME}, connections=specs)) as stage:
        yield stage


@pytest.fixture
def base(hall: RunningStage, tmp_path: Path) -> Iterator[Base]:
    write_config(tmp_path / "evergrant.toml", hall.stage)
    Keyring.create(tmp_path / "keyring.json")
    (tmp_path / "data").mkdir(mode=0o700)
    environment = {
        "EVERGRANT_DATA_DIR": str(tmp_path / "data"),
        "EVERGRANT_KEYRING": str(tmp_path / "keyring.json"),
        "EVERGRANT_BROKER_URL": "memory://",
        "EVERGRANT_ALLOW_LOOPBACK": "1",
    }
    opened = open_base(settings.load(environment, directory=tmp_path), Role.WORKER)
    migrate.upgrade(opened.engine)
    yield opened
    opened.close()


async def test_the_end_is_asked_for_after_the_renewal(hall: RunningStage, base: Base) -> None:
    user_id = hall.login("crm", "rosa")
    tokens = held(hall, "salesforce", user_id)
    options = dict(hall.stage.tenant.connections["crm"].options)
    secret = Secret(json.dumps({"client_secret": options.pop("client_secret"), "headers": {}}))
    vault, now = base.vault(), datetime.now(UTC)
    plant_connection(
        base.engine,
        tenant=TENANT,
        name="crm",
        strategy="salesforce",
        client_id=options.pop("client_id"),
        options=options,
        secrets=vault.seal_config(secret, tenant=TENANT, scope=scope_of(TENANT, "crm")),
    )
    assert tokens.refresh_token is not None
    grant = plant(
        base.engine,
        vault,
        now=now,
        tenant=TENANT,
        connection="crm",
        provider="salesforce",
        identity=user_id.rpartition("|")[2],
        rt=tokens.refresh_token.text(),
    )
    endpoint = HttpTokenEndpoint(allow_loopback=True)
    engine = engine_of(
        base, vault=vault, connections=base.connections(), endpoint=endpoint, pull=FakePull()
    )
    assert await engine.drain("salesforce", budget_seconds=20) == {"renewed": 1}
    async with asyncio.timeout(10):
        while row_of(base.engine, grant).expiry == "untold":
            await asyncio.sleep(0.02)
    await engine.stop()
    await endpoint.close()
    row = row_of(base.engine, grant)
    assert abs(row.expires_at - now - timedelta(seconds=LIFETIME)) < timedelta(seconds=60)
    assert row.issued_at < row.due_at < row.expires_at
    assert row.api_base == "https://acme.my.salesforce.com"
