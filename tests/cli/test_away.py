"""What cannot be reached, or is not there, is named with its place and with what to do."""

import socket
import stat
from contextlib import closing

import pytest

from worker import settings as _settings
from worker.bootstrap.base import Role, open_base
from worker.cli.app import call


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nobody():
    """A port of this machine on which nothing listens."""
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_database_that_is_away_is_named_without_user_and_password(monkeypatch, capsys, nobody):
    url = f"postgresql://rosa:hush@127.0.0.1:{nobody}/grants"
    monkeypatch.setenv("EVERGRANT_DATABASE_URL", url)
    assert call(["status"]) == 75
    told = capsys.readouterr().err
    assert f"127.0.0.1:{nobody}/grants" in told
    assert "does EVERGRANT_DATABASE_URL name" in told
    assert call(["doctor"]) == 1
    told += capsys.readouterr().out
    assert told.count(f"127.0.0.1:{nobody}/grants") == 2
    assert told.count("does EVERGRANT_DATABASE_URL name") == 2
    assert "hush" not in told
    assert "rosa" not in told


def test_a_database_address_that_is_none_is_a_mistake_in_the_settings(monkeypatch, capsys):
    monkeypatch.setenv("EVERGRANT_DATABASE_URL", "hush")
    assert call(["status"]) == 2
    told = capsys.readouterr().err
    assert "database_url" in told
    assert "hush" not in told


@pytest.mark.parametrize(("command", "code"), [("status", 2), ("doctor", 1)])
def test_outside_evergrants_directory_that_is_said_and_nothing_is_made(here, capsys, command, code):
    assert call([command]) == code
    said = capsys.readouterr()
    assert f"no evergrant.toml in {here}" in said.out + said.err
    assert "EVERGRANT_CONFIG" in said.out + said.err
    assert list(here.iterdir()) == []


def test_before_the_first_start_the_command_for_it_is_named(here, capsys):
    (here / "evergrant.toml").touch()
    assert call(["status"]) == 2
    assert "`evergrant up`" in capsys.readouterr().err
    assert not (here / ".evergrant").exists()


def test_a_data_directory_is_closed_to_others_whoever_makes_it(here, monkeypatch):
    assert call(["migrate"]) == 0
    assert _mode(here / ".evergrant") == 0o700
    open_base(_settings.load({"EVERGRANT_DATA_DIR": "opened"}), Role.CLI).close()
    assert _mode(here / "opened") == 0o700
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "set already")
    _settings.share_metrics(here / "shared")
    assert _mode(here / "shared") == 0o700


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)
