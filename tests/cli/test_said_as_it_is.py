"""What is stored is printed as it is: nothing in it is taken for a colour, an emoji, a control."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.clock import FakeClock
from tests.grants import GrantTable
from worker import settings as _settings
from worker.bootstrap.base import Role, open_base
from worker.bootstrap.first_start import first_start
from worker.cli.app import call
from worker.domain.held import Withheld

TOKEN = "gho_ab:key:cd:100:[b]zz[/b]" + "x" * 300
NOW = datetime.now(UTC)
USERS = ["google-oauth2|[/b]", "google-oauth2|[red]x", "google-oauth2|:secret:x:key:"]


@pytest.fixture
def grants(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERGRANT_BROKER_URL", "memory://")
    for name in ("DOMAIN", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"AUTH0_{name}", "acme.example")
    monkeypatch.chdir(tmp_path)
    settings = _settings.load()
    settings.data_dir.mkdir()
    first_start(settings)
    opened = open_base(settings, Role.WORKER)
    yield GrantTable(opened.engine, opened.vault(), FakeClock(opened.clock.now()))
    opened.close()


@pytest.mark.parametrize("user", USERS)
def test_a_users_id_is_listed_as_it_is(grants, capsys, user):
    grants.add(tenant="default", user_id=user)
    assert call(["grants", "list"]) == 0
    assert user in capsys.readouterr().out


@pytest.mark.parametrize("user", USERS)
def test_a_users_id_is_explained_as_it_is(grants, capsys, user):
    grant = grants.add(tenant="default", user_id=user, reason="[/b] :key:")
    assert call(["grants", "explain", str(grant)]) == 0
    said = capsys.readouterr().out
    assert user in said
    assert "[/b] :key:" in said


@pytest.mark.parametrize("user", USERS)
def test_who_waits_to_be_confirmed_is_listed_as_he_is(grants, capsys, user):
    grants.add(tenant="default", user_id=user, withheld=Withheld.USER_MISSING, withheld_at=NOW)
    assert call(["erasure", "waiting"]) == 0
    assert user in capsys.readouterr().out


@pytest.mark.parametrize("user", USERS)
def test_an_error_repeats_an_id_as_it_is(grants, capsys, user):
    assert call(["tokens", "get", user, "google"]) == 3
    assert user in capsys.readouterr().err


def test_a_token_is_written_byte_for_byte(grants, capsys):
    grants.add(tenant="default", access_token=TOKEN)
    assert call(["tokens", "get", "google-oauth2|104", "google", "--show"]) == 0
    assert capsys.readouterr().out == f"{TOKEN}\n"


def test_who_writes_markup_asks_for_it():
    """Else it is printed: `[red]stopped[/]`."""
    sources = (Path(__file__).parents[2] / "worker/cli").glob("*.py")
    written = [path for path in sources if "[/]" in path.read_text()]
    assert [path.name for path in written if "markup=True" not in path.read_text()] == []
