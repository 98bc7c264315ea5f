"""Tenants with keyrings of their own, in processes built as in the field (I17, I23)."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from tests.planted import plant
from worker import settings as _settings
from worker.bootstrap import keyrings
from worker.bootstrap.base import Role, open_base
from worker.bootstrap.first_start import first_start
from worker.bootstrap.keyrings import rings_of
from worker.bootstrap.working import Worker
from worker.cli.asgi import build_web
from worker.domain.errors import KeyringError
from worker.domain.grant import GrantId
from worker.domain.secret import Secret
from worker.settings import Settings
from worker.store.engine import open_engine, reading
from worker.store.tables import OutboxRow
from worker.vault import OF_A_TENANT, Keyring, KeyringSource, Purpose, TenantVaults, tenants
from worker.vault.keyring import Key

TENANT = '[tenants.{0}]\ndomain = "{0}.auth0.com"\nclient_id = "c"\nclient_secret = "s"\n{1}\n'


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    """`acme` has a keyring of its own, `beta` uses the deployment's; both hold a grant."""
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERGRANT_BROKER_URL", "memory://")
    monkeypatch.setenv("EVERGRANT_API_KEYS", "app:sixteen-characters:*/*/*")
    monkeypatch.chdir(tmp_path)
    own = f'keyring = "{tmp_path / "acme.json"}"'
    (tmp_path / "evergrant.toml").write_text(TENANT.format("acme", own) + TENANT.format("beta", ""))
    made = _settings.load()
    made.data_dir.mkdir()
    told = first_start(made)
    assert any(str(tmp_path / "acme.json") in line for line in told)
    base = open_base(made, Role.WORKER)
    for tenant in ("acme", "beta"):
        plant(
            base.engine,
            base.vault(),
            now=base.clock.now(),
            tenant=tenant,
            rt=f"rt-{tenant}",
            identity="104",
        )
    base.close()
    return made


def keys() -> list[Key]:
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, Key)]


@pytest.mark.parametrize(
    ("role", "purposes"),
    [
        (build_web, {Purpose.ACCESS}),
        (Worker, OF_A_TENANT),
        (lambda settings: open_base(settings, Role.SCHEDULER), set()),
    ],
    ids=["web", "worker", "scheduler"],
)
def test_of_a_tenants_keyring_a_process_holds_what_its_role_needs(settings, role, purposes):
    """The key matrix, once more for each keyring (I17)."""
    theirs = {key.id for key in Keyring.load(settings.own_keyrings["acme"]).keys}
    before = {id(key) for key in keys()}
    process = role(settings)
    held = {key.purpose for key in keys() if id(key) not in before and key.id in theirs}
    assert held == purposes
    if isinstance(process, Worker):
        process.close()


def test_a_new_tenants_keyring_is_made_and_one_with_data_is_not_given_an_empty_one(settings):
    path = Path(settings.own_keyrings["acme"])
    assert {key.purpose for key in Keyring.load(path).keys} == OF_A_TENANT
    kept = path.read_bytes()
    path.unlink()
    (told,) = [line for line in first_start(settings) if "acme" in line]
    assert "left out: acme" in told
    assert str(path) in told
    assert not path.exists()
    path.touch(mode=0o600)
    path.write_bytes(kept)
    assert not [line for line in first_start(settings) if "acme" in line]


def foreign(path: Path) -> None:
    path.unlink()
    KeyringSource(str(path)).create(Keyring.generate(OF_A_TENANT))


BROKEN = {"missing": Path.unlink, "another": foreign}


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN)
def test_a_worker_starts_without_the_tenant_whose_keyring_is_wrong(
    settings, spoil, capsys, monkeypatch
):
    """It says which tenant and which file, tells the operator once, and takes it up when mended."""
    monkeypatch.setattr(tenants, "LOOK_AGAIN", 0.0)
    told = []
    monkeypatch.setattr(keyrings._log, "error", lambda what, **more: told.append((what, more)))
    path = Path(settings.own_keyrings["acme"])
    kept = path.read_bytes()
    spoil(path)
    worker = Worker(settings)
    try:
        vault = worker._base.vault()
        assert isinstance(vault, TenantVaults)
        assert vault.closed().keys() == {"acme"}
        assert told[0][0] == "keyring_closed"
        assert told[0][1]["tenant"] == "acme"
        assert str(path) in told[0][1]["why"]
        for _ in range(3):
            worker.upkeep("sweep")
        assert notices(settings) == [("acme", "keyring_closed")]
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(kept)
        while vault.closed():
            pass
        assert vault.new_keys("acme", GrantId.__supertype__(int=7))
    finally:
        worker.close()


def notices(settings: Settings) -> list[tuple[str, str]]:
    engine = open_engine(settings.database_url)
    with reading(engine) as connection:
        rows = connection.execute(select(OutboxRow.tenant, OutboxRow.kind)).all()
    engine.dispose()
    return [(row.tenant, row.kind) for row in rows]


def test_the_deployments_keyring_does_not_hold_what_was_sealed_for_the_tenant(settings):
    base = open_base(settings, Role.WORKER)
    shared, own = (ring.vault() for ring in rings_of(settings))
    sealed = base.vault().seal_config(Secret("s"), tenant="acme", scope="s")
    with pytest.raises(KeyringError, match="no key"):
        shared.open_config(sealed, tenant="acme", scope="s")
    assert own.open_config(sealed, tenant="acme", scope="s") == Secret("s")
    base.close()


async def asked(settings, tenants):
    transport = httpx.ASGITransport(app=build_web(settings))
    authorization = {"Authorization": "Bearer sixteen-characters"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://web", headers=authorization
    ) as web:
        return {
            tenant: await web.get(f"/v1/{tenant}/users/google-oauth2%7C104/tokens/google-oauth2")
            for tenant in tenants
        }


def test_an_app_is_told_to_come_again_for_that_tenant_and_served_for_the_others(settings):
    Path(settings.own_keyrings["acme"]).unlink()
    answers = asyncio.run(asked(settings, ("acme", "beta")))
    assert answers["beta"].json()["access_token"] == "a0"
    assert (answers["acme"].status_code, answers["acme"].json()["code"]) == (503, "keyring_closed")
    assert int(answers["acme"].headers["Retry-After"]) == 30
    assert "acme.json" not in answers["acme"].text
