"""A port that somebody else has is named before anything is started or made."""

import socket
import subprocess
import sys
from contextlib import closing

import pytest

from worker.cli.app import call


@pytest.fixture
def taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("worker.cli.supervisor.Supervisor.run", lambda *_, **__: 0)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield str(server.getsockname()[1])


def test_up_names_a_taken_port_and_its_setting(taken, tmp_path, monkeypatch, capsys):
    """Else whoever has it answers for Evergrant, and web is started again for ever."""
    monkeypatch.setenv("EVERGRANT_PORT", taken)
    assert call(["up"]) == 2
    told = capsys.readouterr().err
    assert f"127.0.0.1:{taken}" in told
    assert "EVERGRANT_PORT=" in told
    assert not (tmp_path / ".evergrant").exists()


def test_flowers_port_is_looked_at_where_it_is_wanted(taken, monkeypatch, capsys):
    monkeypatch.setenv("EVERGRANT_PORT", "0")
    monkeypatch.setenv("EVERGRANT_FLOWER_PORT", taken)
    assert call(["up"]) == 0
    assert call(["up", "--flower"]) == 2
    assert "EVERGRANT_FLOWER_PORT=" in capsys.readouterr().err


def test_web_by_itself_names_it_as_well(taken, tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGRANT_PORT", taken)
    web = [sys.executable, "-m", "worker.cli", "web"]
    done = subprocess.run(web, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "EVERGRANT_PORT=" in done.stderr) == (2, True), done.stderr
