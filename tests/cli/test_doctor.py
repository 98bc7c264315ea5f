"""What the doctor says of a deployment in trouble, and that it does not call it well."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.clock import FakeClock
from tests.grants import GrantTable
from worker import settings as _settings
from worker.bootstrap.base import Role, open_base
from worker.bootstrap.first_start import first_start
from worker.cli.app import call
from worker.domain.exchange import ConnectionConfig
from worker.domain.secret import Secret

CONFIG = """
[tenants.acme]
domain = "acme.eu.auth0.com"
client_id = "m2m"
client_secret = "s"
base_url = "http://127.0.0.1:1"
"""


WELL = ConnectionConfig(
    tenant="acme", name="well", id=None, strategy="github", client_id="ours",
    client_secret=Secret("s"), options={}, headers={}, overrides={},
    fetched_at=datetime.now(UTC), approved_host=None, stopped=None,
)  # fmt: skip


@pytest.fixture
def base(tmp_path, monkeypatch):
    (tmp_path / "evergrant.toml").write_text(CONFIG)
    monkeypatch.setenv("EVERGRANT_ALLOW_LOOPBACK", "1")
    monkeypatch.setenv("EVERGRANT_PORT", "1")
    monkeypatch.chdir(tmp_path)
    settings = _settings.load()
    first_start(settings)
    opened = open_base(settings, Role.CLI)
    yield opened
    opened.close()


@pytest.fixture
def grants(base):
    return GrantTable(base.engine, base.vault(), FakeClock(datetime.now(UTC)))


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
def doctor(evergrant):
    """Its findings of one name; here it always fails: nobody is at Auth0's address."""

    def findings(name):
        return [c for c in evergrant("doctor", code=1)["checks"] if c["name"] == name]

    return findings


def test_a_stopped_connection_is_a_failure_and_says_how_to_mend_it(grants, doctor, evergrant):
    grants.add_connection(client_id="ours", stopped="invalid_client")
    grant = grants.add()
    [stop] = doctor("connection acme/google")
    assert stop["status"] == "fail"
    assert stop["told"].endswith("invalid_client (1 grant of 1 user)")
    assert "client id and secret, at Auth0 and at the provider" in stop["advice"]
    assert stop["advice"].endswith("`evergrant connections reopen google`")
    assert stop["advice"] in evergrant("grants", "explain", str(grant))["next_step"]
    assert stop["advice"] in evergrant("connections", "explain", "google")["do"]


def test_connections_in_trouble_are_not_summed_up_as_well(grants, doctor):
    grants.add_connection(client_id="ours", stopped="invalid_client")
    told = {finding["told"]: finding["status"] for finding in doctor("tenant acme")}
    assert told.get("connections that are well: 0 of 1") == "warn"


def test_a_host_that_changed_is_looked_at_before_it_is_approved(grants, doctor):
    why = "its token host changed from a.example to b.example"
    grants.add_connection(client_id="ours", stopped=why)
    [stop] = doctor("connection acme/google")
    assert stop["status"] == "fail"
    assert "`evergrant connections explain google`" in stop["advice"]
    assert "reopen" not in stop["advice"]


def test_the_operating_page_knows_that_a_provider_may_mend_itself():
    page = Path(__file__).parents[2] / "docs" / "operating.md"
    [row] = [line for line in page.read_text().splitlines() if "`invalid_client`" in line]
    assert "evergrant connections reopen" in row


def test_overdue_grants_without_a_worker_are_a_failure(grants, doctor):
    [idle] = doctor("workers")
    assert idle["status"] == "warn", "there is nothing to do"
    grants.add(due_at=datetime.now(UTC) - timedelta(seconds=20))
    [workers] = doctor("workers")
    assert workers["status"] == "fail"
    assert workers["told"] == "none answers, and 1 grant overdue"


def test_the_backlog_counts_as_status_does(grants, doctor):
    [backlog] = doctor("backlog")
    assert backlog["told"] == "nothing overdue"
    grant = grants.add(due_at=datetime.now(UTC) - timedelta(seconds=20))
    [backlog] = doctor("backlog")
    assert backlog["told"] == "1 overdue, none for longer than 75 s"
    grants.set(grant, due_at=datetime.now(UTC) - timedelta(hours=3))
    [backlog] = doctor("backlog")
    assert (backlog["status"], backlog["told"]) == (
        "warn",
        "google-oauth2: 1 overdue, by 3 h at most",
    )


def test_a_list_of_bad_ones_that_is_empty_says_that_all_are_well(base, capsys):
    listed = (["connections", "list", "--bad"], ["providers", "check", "--bad"])
    for command in listed:
        assert call(command) == 0
        assert "evergrant sync connections" in capsys.readouterr().out
    base.connections().put(WELL, options_seen=True)
    for command in listed:
        assert call(command) == 0
        assert capsys.readouterr().out.strip() == "none has a problem: 1 connection"


def test_a_connection_that_only_auth0_knows_is_read_first(evergrant):
    for command in ("explain", "reopen"):
        told = evergrant("connections", command, "acme-workspace", code=3)
        assert "is read by `evergrant sync connections`" in told


@pytest.mark.parametrize(
    ("url", "address"),
    [("embedded", "files in "), ("redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0"),
     ("amqp://u:hush@127.0.0.1:1//", "amqp://u:**@127.0.0.1:1//")],
)  # fmt: skip
def test_a_broker_is_named_as_it_was_set(monkeypatch, doctor, url, address):
    monkeypatch.setenv("EVERGRANT_BROKER_URL", url)
    [broker] = doctor("broker")
    assert broker["told"].startswith(address)


def test_an_auth0_that_is_not_reached_is_no_matter_of_scopes(doctor):
    _no_webhooks, away, none = doctor("tenant acme")
    assert away["status"] == "fail"
    assert away["told"] == "token endpoint: ConnectError (http://127.0.0.1:1)"
    assert "AUTH0_DOMAIN" in away["advice"]
    assert none["told"].startswith("no connection is known here yet")


def test_a_web_role_elsewhere_is_not_said_to_be_down(doctor):
    [web] = doctor("web")
    assert web["told"].startswith("asked http://127.0.0.1:1/readyz")
    assert "EVERGRANT_HOST" in web["advice"]


def test_a_journal_that_is_not_read_or_has_lost_records_is_named(base, evergrant):
    place = base.settings.data_dir / "journal"
    place.mkdir(mode=0o700, exist_ok=True)
    (place / "p1.lossy").touch()
    (place / "p2.000001.log").touch(mode=0o640)
    (place / "p2.000001.log").chmod(0o640)
    told = [c for c in evergrant("doctor", code=1)["checks"] if c["name"] == "journals"]
    assert "chmod 600" in told[0]["advice"]
    assert "p1" in told[1]["told"]
