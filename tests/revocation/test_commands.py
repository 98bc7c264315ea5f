"""`evergrant compromise` and `evergrant erasure show`, on an embedded store."""

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from tests.clock import FakeClock
from tests.grants import GrantTable
from worker.cli.app import build
from worker.store import migrate
from worker.store.engine import open_engine
from worker.vault import AesVault, Keyring


@pytest.fixture
def evergrant(tmp_path, monkeypatch):
    for name, value in {
        "EVERGRANT_DATA_DIR": str(tmp_path),
        "EVERGRANT_KEYRING": str(tmp_path / "keyring.json"),
        "EVERGRANT_BROKER_URL": "memory://",
        "AUTH0_DOMAIN": "acme.eu.auth0.com",
        "AUTH0_CLIENT_ID": "id",
        "AUTH0_CLIENT_SECRET": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    keyring = Keyring.create(tmp_path / "keyring.json")
    engine = open_engine(f"sqlite:///{tmp_path / 'evergrant.db'}")
    migrate.upgrade(engine)

    def evergrant(*words):
        return CliRunner().invoke(build(), [*words], catch_exceptions=False)

    evergrant.grants = GrantTable(engine, AesVault(keyring), FakeClock(datetime.now(UTC)))
    yield evergrant
    engine.dispose()


def test_a_connection_is_given_up_and_the_receipt_shown(evergrant):
    grant = evergrant.grants.add(tenant="default")
    answer = evergrant("compromise", "--connection", "google", "--json")
    assert json.loads(answer.stdout) == {"grants": [str(grant)], "replaced": False}
    assert evergrant.grants.row(grant).state == "tombstoned"
    (entry,) = json.loads(evergrant("erasure", "show", str(grant), "--json").stdout)
    assert (entry["what"], entry["why"]) == ("tombstoned", "compromised")
    assert entry["by"].startswith("cli:")


def test_replacing_revokes_nothing(evergrant):
    grant = evergrant.grants.add(tenant="default")
    answer = evergrant("compromise", "--user", "google-oauth2|104", "--replace")
    assert "1 grants are replaced now" in answer.stdout
    assert evergrant.grants.row(grant).state == "active"


def test_what_was_not_handed_out_is_left_alone(evergrant):
    grant = evergrant.grants.add(tenant="default")
    evergrant("compromise", "--since", "6h", "--yes")
    assert evergrant.grants.row(grant).state == "active"
