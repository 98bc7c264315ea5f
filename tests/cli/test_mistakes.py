"""Whatever is mistyped is answered by a line and a code, never by a traceback."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest

from worker.cli.app import call

HUGE = "9" * 23


@pytest.fixture
def evergrant(tmp_path, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith(("EVERGRANT_", "AUTH0_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERGRANT_BROKER_URL", "memory://")
    monkeypatch.chdir(tmp_path)

    def run(*arguments, toml=None, **environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        if toml is not None:
            (tmp_path / "evergrant.toml").write_text(toml)
        capsys.readouterr()
        code = call(list(arguments))
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out + said.err

    return run


@pytest.fixture
def migrated(evergrant):
    assert evergrant("migrate")[0] == 0
    return evergrant


@pytest.fixture
def taken():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


@pytest.mark.parametrize("command", [("status",), ("migrate",), ("up",)])
@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://canary@host/db",
        "oracle://canary@host/db",
        "postgresql://u:canary@host:port/db",
        "postgresql://u:canary@host:99999x/db",
        "postgresql+nothing://u:canary@host/db",
        "sqlite+nothing:///x.db",
    ],
)
def test_an_address_of_no_database(evergrant, command, url):
    code, said = evergrant(*command, EVERGRANT_DATABASE_URL=url)
    assert code == 2
    assert "database_url" in said.lower()
    assert "postgresql://" in said
    assert "canary" not in said


@pytest.mark.parametrize("command", [("status",), ("up",), ("worker",), ("web",)])
@pytest.mark.parametrize(
    "url",
    [
        "foo://canary",
        "sqla+sqlite:///canary.db",
        "sqlalchemy+sqlite:///canary.db",
        "redis://:canary@h:x/0",
        "canary",
    ],
)
def test_an_address_of_no_broker(evergrant, command, url):
    code, said = evergrant(*command, EVERGRANT_BROKER_URL=url)
    assert code == 2
    assert "broker_url" in said
    assert "canary" not in said


@pytest.mark.parametrize(
    "command", [("status",), ("migrate",), ("up",), ("web",), ("keys", "list")]
)
def test_a_data_directory_that_cannot_be_made(evergrant, tmp_path, command):
    (tmp_path / "file").write_text("")
    code, said = evergrant(*command, EVERGRANT_DATA_DIR=str(tmp_path / "file" / "data"))
    assert code == 2
    assert str(tmp_path / "file") in said


@pytest.mark.parametrize(
    "toml",
    [
        "tenants = 5",
        "[tenants]\ndefault = 5",
        "tenants = [1]",
        "tick = 1e400",
        "tick = nan",
        "tick = -inf",
        "tick = true",
        "confirm_after = 1e300",
        "deletion_quiet = 99999999999",
        "reconcile_share = nan",
        "batch_seconds = nan",
        '[[actions]]\nrun = "a.b"\ntrigger = "login"\ntimeout = inf',
    ],
)
def test_a_value_that_is_none(evergrant, toml):
    code, said = evergrant("status", toml=toml)
    assert code == 2
    assert "evergrant.toml:" in said


def test_an_environment_beside_a_table_that_is_none(evergrant):
    code, said = evergrant("status", toml="tenants = 5", AUTH0_DOMAIN="acme.eu.auth0.com")
    assert code == 2
    assert "tenants" in said


def test_a_dotenv_that_is_no_text(evergrant, tmp_path):
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    code, said = evergrant("status")
    assert code == 2
    assert ".env" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("tokens", "get", "google-oauth2|1", "google", "--min-ttl", "99999999999999"),
        ("tokens", "get", "google-oauth2|1", "google", "--min-ttl", "-5"),
        ("api-keys", "create", "crm", "--days", "99999999"),
        ("audit", "prune", "--older-than", "99999999999", "--yes"),
        ("plan", "--outage", "google-oauth2=999999999999d"),
        ("plan", "--outage", f"google-oauth2={'9' * 400}d"),
        ("plan", "--outage", "google-oauth2=1h", "--add", HUGE),
        ("events", "show", HUGE),
        ("events", "show", "--dead", HUGE),
        ("events", "discard", HUGE),
        ("events", "discard", "--dead", HUGE),
        ("events", "replay", HUGE),
        ("events", "failed", "--limit", HUGE),
        ("grants", "list", "--limit", HUGE),
        ("worker", "--concurrency", "-3"),
        ("worker", "--concurrency", HUGE),
        ("flower", "--port", "99999"),
        ("rehearsal", "--port", "99999"),
    ],
    ids=" ".join,
)
def test_a_number_out_of_all_bounds(migrated, arguments):
    code, said = migrated(*arguments)
    assert code == 2
    assert said


def test_an_argument_that_is_no_text(evergrant):
    for word in (os.fsdecode(b"google-oauth2|\xff"), os.fsdecode(b"\xff")):
        code, said = evergrant("grants", "list", "--user", word)
        assert code == 2
        assert "UTF-8" in said


def test_a_rehearsal_where_none_can_be_played(evergrant, taken, tmp_path):
    for arguments, told in (
        (["--port", str(taken)], str(taken)),
        (["--port", "65530"], "no such port"),
        (["--port", "0", "--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--port", "0", "--config", str(tmp_path / "none" / "x.toml")], "--config"),
    ):
        code, said = evergrant("rehearsal", *arguments)
        assert code == 2
        assert told in said


def test_flower_where_another_listens(migrated, taken):
    code, said = migrated("flower", "--port", str(taken))
    assert code == 2
    assert str(taken) in said


@pytest.mark.parametrize("first", [["migrate"], ["web"], ["scheduler"]])
def test_whoever_comes_first_makes_it_for_its_owner_alone(tmp_path, first):
    data = tmp_path / "new" / "data"
    environ = {**os.environ, "EVERGRANT_DATA_DIR": str(data), "EVERGRANT_PORT": "0"}
    old = os.umask(0o022)
    try:
        command = [sys.executable, "-m", "worker.cli", *first]
        with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL) as run:
            try:
                run.wait(15)
            except subprocess.TimeoutExpired:
                run.terminate()
    finally:
        os.umask(old)
    for path in [data, *data.rglob("*")]:
        if path == data or path.name.startswith("evergrant.db"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_migration_tells_programs_what_it_did(evergrant):
    first = json.loads(evergrant("migrate", "--json")[1])
    assert first["before"] is None
    assert json.loads(evergrant("migrate", "--json")[1]) == {
        "schema": first["schema"],
        "before": first["schema"],
    }
