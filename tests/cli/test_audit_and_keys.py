"""The audit and the keyring by hand, on a store that nothing runs on."""

import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from tests.canary import hunt_bytes
from tests.store.test_audit import RECORD
from tests.vault.fake_transit import TOKEN, fake_transit
from worker import settings as _settings
from worker.bootstrap.base import Role, open_base
from worker.bootstrap.first_start import first_start
from worker.bootstrap.working import ANCHORS
from worker.cli.app import call
from worker.domain.ports import ApiToken
from worker.domain.secret import Secret
from worker.store.anchors import Anchors
from worker.store.engine import writing
from worker.store.tenants import TenantRepository
from worker.vault import Keyring, Purpose

NOW = datetime.now(UTC)


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERGRANT_BROKER_URL", "memory://")
    monkeypatch.chdir(tmp_path)
    settings = _settings.load()
    settings.data_dir.mkdir()
    first_start(settings)
    opened = open_base(settings, Role.WORKER)
    yield opened
    opened.close()


@pytest.fixture
def evergrant(base, capsys):
    def run(*arguments, code=0):
        capsys.readouterr()
        ended = call([*arguments, "--json"])
        said = capsys.readouterr()
        assert ended == code, said
        return json.loads(said.out) if said.out else said.err

    return run


@pytest.fixture
def anchors(base):
    return Anchors(base.settings.data_dir / ANCHORS, base.vault())


def happened(base, *days_ago):
    for days in days_ago:
        with writing(base.engine) as connection:
            base.audit.append(connection, [replace(RECORD, at=NOW - timedelta(days=days))])


def change(base, statement):
    with writing(base.engine) as connection:
        connection.execute(text(statement))


def test_the_audit_is_verified_against_what_was_anchored(base, evergrant, anchors):
    happened(base, 3, 2, 1)
    anchors.note(base.engine, NOW)
    assert evergrant("audit", "verify") == {"ok": True, "anchors": 1, "problems": []}
    change(base, "DELETE FROM audit WHERE seq = 3")
    told = evergrant("audit", "verify", code=1)
    assert [problem["what"] for problem in told["problems"]] == ["anchored, but gone"]


def test_the_doctor_looks_at_the_audit_as_well(base, evergrant):
    happened(base, 3, 2, 1)
    change(base, "UPDATE audit SET actor = 'nobody' WHERE seq = 2")
    told = evergrant("doctor", "--deep", code=1)
    assert any(c["name"] == "audit" and c["status"] == "fail" for c in told["checks"])


def test_the_audit_is_pruned_and_verifies_afterwards(base, evergrant, anchors):
    happened(base, 500, 450, 100, 1)
    anchors.note(base.engine, NOW)
    assert evergrant("audit", "prune", "--older-than", "400") == {"entries": 2, "chains": 1}
    assert evergrant("audit", "verify")["ok"]
    assert "at least 30 days" in evergrant("audit", "prune", "--older-than", "7", code=2)


def test_an_old_key_is_destroyed_only_when_nothing_needs_it(base, evergrant):
    sealed_with = _auth0s_token_sealed(base)
    evergrant("keys", "rotate")
    evergrant("keys", "disable", sealed_with)
    keyring = _checks(evergrant("doctor", code=1), "keyring")
    assert any(f"key {sealed_with}" in told for told in keyring)
    assert "1 ciphertexts" in evergrant("keys", "destroy", sealed_with, code=2)
    evergrant("keys", "enable", sealed_with)
    assert evergrant("keys", "rewrap") == {"moved": 1, "left": 0}
    evergrant("keys", "disable", sealed_with)
    assert evergrant("keys", "destroy", sealed_with)["state"] == "destroyed"
    assert sealed_with not in {key["id"] for key in evergrant("keys", "list")}
    assert all("disabled" not in told for told in _checks(evergrant("doctor", code=1), "keyring"))


def test_a_key_is_brought_to_every_machine_before_anything_is_sealed_with_it(base, evergrant):
    before = Keyring.load(base.settings.keyring)
    added = [key["id"] for key in evergrant("keys", "add")]
    opens = Keyring.load(base.settings.keyring)
    assert all(opens.get(key) for key in added)
    assert all(opens.primary(purpose) == before.primary(purpose) for purpose in Purpose)
    evergrant("keys", "promote", *added)
    seals = Keyring.load(base.settings.keyring)
    assert [seals.primary(Purpose(p)).id for p in ("rt", "at", "config")] == added
    evergrant("keys", "promote", "00000000", code=2)


def test_the_keyring_is_changed_without_the_secrets_of_the_configuration(
    base, evergrant, monkeypatch
):
    for name in ("AUTH0_DOMAIN", "AUTH0_CLIENT_ID", "AUTH0_CLIENT_SECRET"):
        monkeypatch.setenv(name, "file:/nowhere" if "SECRET" in name else "acme.eu.auth0.com")
    assert evergrant("keys", "rotate", "at")
    evergrant("status", code=2)


def _auth0s_token_sealed(base):
    token = ApiToken(token=Secret("eyJ"), expires_at=NOW, scope="")
    TenantRepository(base.engine, base.vault()).put_token("acme", token)
    return base.vault().keyring.primary(Purpose.CONFIG).id


def _checks(told, name):
    return [check["told"] for check in told["checks"] if check["name"] == name]


def test_a_keyring_for_one_role_holds_that_roles_keys(base, evergrant, tmp_path):
    path = tmp_path / "web.json"
    assert evergrant("keys", "export", str(path), "--role", "web")["for"] == ["access tokens"]
    part, whole = Keyring.load(path), Keyring.load(base.settings.keyring)
    assert {key.purpose for key in part.keys} == {Purpose.ACCESS}
    others = [key.material.reveal() for key in whole.keys if key.purpose is not Purpose.ACCESS]
    assert hunt_bytes(others, path.read_bytes()) == []
    assert path.stat().st_mode & 0o077 == 0
    assert "never overwritten" in evergrant("keys", "export", str(path), "--role", "web", code=2)


@pytest.fixture
def transit(monkeypatch):
    with fake_transit() as fake:
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        yield fake


def test_a_keyring_moves_into_vault_and_out_again_and_opens_what_it_sealed(
    base, evergrant, transit, tmp_path, monkeypatch
):
    sealed_with = _auth0s_token_sealed(base)
    address = transit.address(tmp_path / "wrapped.json")
    assert evergrant("keys", "move", address)["keys"] == len(Purpose)
    assert "never overwritten" in evergrant("keys", "move", address, code=2)
    monkeypatch.setenv("EVERGRANT_KEYRING", address)
    assert sealed_with in {key["id"] for key in evergrant("keys", "list")}
    with closing(open_base(_settings.load(), Role.WORKER)) as moved:
        assert TenantRepository(moved.engine, moved.vault()).token("acme").token.text() == "eyJ"
    evergrant("keys", "rotate", "config")
    assert evergrant("keys", "rewrap") == {"moved": 1, "left": 0}
    web = transit.address(tmp_path / "web.json")
    evergrant("keys", "export", web, "--role", "web")
    assert (tmp_path / "web.json").read_text().count("vault:v1:") == 1
    transit.sealed = True
    assert "sealed" in evergrant("keys", "list", code=75)
    transit.sealed = False
    evergrant("keys", "move", str(tmp_path / "out.json"))
    assert len(Keyring.load(tmp_path / "out.json").keys) == len(Purpose) + 1


def test_settings_that_may_forget_are_named(base, evergrant, monkeypatch):
    monkeypatch.setattr("worker.cli.checks.durability_problems", lambda _engine: ["it forgets"])
    assert "it forgets" in _checks(evergrant("doctor", code=1), "database")
