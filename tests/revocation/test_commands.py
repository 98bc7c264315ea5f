"""`evergrant compromise` and `evergrant erasure show`, on an embedded store."""

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from tests.clock import FakeClock
from tests.grants import GrantTable
from worker.cli.app import build
from worker.domain.errors import ConfigurationError
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
    told = json.loads(evergrant("compromise", "--connection", "google", "--json").stdout)
    assert (told["done"], told["plan"]["grants"]) == (False, 1)
    assert evergrant.grants.row(grant).state == "active"
    answer = evergrant("compromise", "--connection", "google", "--json", "--yes", "--wait", "0")
    told = json.loads(answer.stdout)
    assert (told["done"], told["grants"], told["report"]["pending"]) == (True, [str(grant)], 1)
    assert answer.exit_code == 1  # nothing is known of the provider yet
    assert evergrant.grants.row(grant).state == "tombstoned"
    (entry,) = json.loads(evergrant("erasure", "show", str(grant), "--json").stdout)
    assert (entry["what"], entry["why"]) == ("tombstoned", "compromised")
    assert entry["by"].startswith("cli:")


def test_replacing_revokes_nothing(evergrant):
    grant = evergrant.grants.add(tenant="default")
    answer = evergrant(
        "compromise", "--user", "google-oauth2|104", "--replace", "--yes", "--wait", "0"
    )
    assert "stopped 1 grant: none of these access tokens" in answer.stdout
    assert "1 of 1 are still pending" in answer.stdout
    assert evergrant.grants.row(grant).state == "active"


def test_what_is_meant_is_told_before_anything_is_asked(evergrant):
    grant = evergrant.grants.add(tenant="default")
    dry = evergrant("compromise", "--user", "google-oauth2|104", "--dry-run")
    assert (dry.exit_code, "concerned: 1 grant of 1 user" in dry.stdout) == (0, True)
    refused = evergrant("compromise", "--user", "google-oauth2|104")  # no answer is no
    assert refused.exit_code == 1
    assert refused.stdout.index("concerned") < refused.stdout.index("Revoke?")
    assert evergrant.grants.row(grant).state == "active"


def test_a_grant_without_a_user_is_the_one_given_up(evergrant):
    """Its id was said: not whatever else the connection holds for nobody in particular."""
    orphan = evergrant.grants.add(tenant="default", user_id=None)
    admin = evergrant.grants.add(
        tenant="default", user_id=None, part="admin", identity_user_id="con_1", refresh_token="a"
    )
    evergrant("grants", "revoke", str(orphan), "--yes")
    states = [evergrant.grants.row(grant).state for grant in (orphan, admin)]
    assert states == ["tombstoned", "active"]


def test_siblings_are_named_and_given_up_only_if_said(evergrant):
    evergrant.grants.add_connection("google", tenant="default", client_id="ours")
    evergrant.grants.add_connection("workspace", tenant="default", client_id="ours")
    grant = evergrant.grants.add(tenant="default")
    sibling = evergrant.grants.add(tenant="default", connection="workspace", refresh_token="rt-w")
    plan = json.loads(evergrant("compromise", "--connection", "google", "--json").stdout)["plan"]
    assert [one["id"] for one in plan["siblings"]] == [str(sibling)]
    for words in (["compromise", "--connection", "google"], ["grants", "revoke", str(grant)]):
        with pytest.raises(ConfigurationError, match="--include-siblings"):
            evergrant(*words, "--yes")
        assert evergrant.grants.row(grant).state == "active"
    evergrant("grants", "revoke", str(grant), "--yes", "--include-siblings")
    assert evergrant.grants.row(sibling).state == "tombstoned"


def test_what_was_given_up_lately_is_counted(evergrant):
    evergrant.grants.add(tenant="default")
    assert "nothing was given up" in evergrant("erasure", "report", "--since", "1h").stdout
    evergrant("compromise", "--connection", "google", "--yes", "--wait", "0")
    told = json.loads(evergrant("erasure", "report", "--since", "1h", "--json").stdout)
    assert (told["grants"], told["pending"]) == (1, 1)


@pytest.mark.parametrize("since", ["yesterday", "6", "6y", "h", "-3h", "99999999999999d", "²h"])
def test_a_time_nobody_can_read_stops_nothing(evergrant, since):
    grant = evergrant.grants.add(tenant="default")
    with pytest.raises(ConfigurationError, match="write 6h"):
        evergrant("compromise", f"--since={since}", "--yes")
    assert evergrant.grants.row(grant).state == "active"


def test_what_was_not_handed_out_is_left_alone(evergrant):
    grant = evergrant.grants.add(tenant="default")
    evergrant("compromise", "--since", "6h", "--yes")
    assert evergrant.grants.row(grant).state == "active"
