"""A name that nobody has is told so: it must not read as "there is nothing to do"."""

import io
import json
from datetime import UTC, datetime

import pytest

from tests.clock import FakeClock
from tests.grants import GrantTable
from worker import settings as _settings
from worker.bootstrap.base import Role, open_base
from worker.bootstrap.first_start import first_start
from worker.cli.app import call
from worker.domain.access import parse_scope
from worker.store.api_keys import ApiKeyRepository

NOW = datetime.now(UTC)


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERGRANT_BROKER_URL", "memory://")
    for name in ("DOMAIN", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"AUTH0_{name}", "acme.example")
    monkeypatch.chdir(tmp_path)
    settings = _settings.load()
    settings.data_dir.mkdir()
    first_start(settings)
    opened = open_base(settings, Role.WORKER)
    yield opened
    opened.close()


@pytest.fixture
def grants(base):
    return GrantTable(base.engine, base.vault(), FakeClock(base.clock.now()))


@pytest.fixture
def evergrant(base, capsys):
    def run(*arguments):
        capsys.readouterr()
        code = call(list(arguments))
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.mark.parametrize(
    "meant",
    [
        ("--api-key", "crn"),
        ("--user", "google-oauth2|105"),
        ("--connection", "gogle"),
        ("--user", "google-oauth2|104", "--api-key", "crn"),
        ("--since", "2h", "--connection", "gogle"),
    ],
)
def test_a_leak_of_what_nobody_knows_is_no_leak_of_nothing(evergrant, base, grants, meant):
    grants.add(tenant="default")
    ApiKeyRepository(base.engine).create("crm", scope=parse_scope("*"), now=base.clock.now())
    for more in ([], ["--json", "--yes"], ["--dry-run"]):
        code, said = evergrant("compromise", *meant, *more)
        assert code == 3
        assert "known" in said
        assert "nothing to do" not in said


@pytest.mark.parametrize(
    "meant",
    [("--api-key", "crm"), ("--user", "google-oauth2|104"), ("--connection", "google")],
)
def test_what_is_known_and_holds_nothing_any_more_is_answered_as_ever(
    evergrant, base, grants, meant
):
    grants.add(tenant="default", state="tombstoned")
    keys = ApiKeyRepository(base.engine)
    keys.create("crm", scope=parse_scope("*"), now=base.clock.now())
    keys.revoke("crm", base.clock.now())
    code, said = evergrant("compromise", *meant)
    assert code == 0
    assert "no living grant is meant" in said


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("grants", "list", "--state", "bogus"), 2),
        (("grants", "list", "--provider", "bogus"), 2),
        (("grants", "list", "--tenant", "bogus"), 2),
        (("grants", "list", "--connection", "bogus"), 3),
        (("events", "replay", "99999"), 3),
        (("events", "discard", "99999"), 3),
        (("events", "discard", "--dead", "99999"), 3),
        (("providers", "show", "bogus"), 3),
        (("keys", "disable", "bogus"), 3),
        (("keys", "enable", "bogus"), 3),
        (("keys", "destroy", "bogus"), 3),
        (("erasure", "confirm", "google-oauth2|bogus"), 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_there_is_no_such_thing_and_nobody_is_asked(evergrant, monkeypatch, arguments, code):
    """Without an answer a question ends with 1."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    told, said = evergrant(*arguments)
    assert told == code
    assert "bogus" in said or "99999" in said
    assert "[y/N]" not in said


def test_a_key_in_use_is_not_asked_about(evergrant, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    _, said = evergrant("keys", "list", "--json")
    used = json.loads(said)[0]["id"]
    code, said = evergrant("keys", "destroy", used)
    assert code == 2
    assert "disable it first" in said
    assert "[y/N]" not in said


def test_grants_of_what_is_known_may_be_none(evergrant, grants):
    grants.add_connection(tenant="default", name="google")
    for more in (["--connection", "google"], ["--provider", "google-oauth2"], ["--user", "x"]):
        assert evergrant("grants", "list", *more) == (0, "no grants\n")
