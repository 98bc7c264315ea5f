"""A first start, and the mistakes made at it."""

import io
import stat
from pathlib import Path

import pytest

from worker.cli.app import call
from worker.settings import load
from worker.vault import Keyring

FLAGS = ["--domain", "acme.eu.auth0.com", "--client-id", "abc", "--client-secret", "s3cret"]


def test_init_writes_what_a_start_needs_and_tells_the_steps(tmp_path, capsys):
    assert call(["init", "--directory", str(tmp_path), *FLAGS]) == 0
    told = capsys.readouterr().out
    for word in ("read:user_idp_tokens", "/hooks/auth0/default/logs", "EVERGRANT_EVENTS_BEARER"):
        assert word in told
    assert "s3cret" not in told
    settings = load({}, directory=tmp_path)
    tenant = settings.tenants["default"]
    assert tenant.client_secret.text() == "s3cret"
    assert tenant.logs_authorization
    assert tenant.events_bearer
    assert tenant.actions_secret
    assert len(Keyring.load(settings.keyring).keys) == 4


def test_what_init_writes_is_for_its_owner_alone(tmp_path):
    call(["init", "--directory", str(tmp_path), *FLAGS])
    for name in ("evergrant.toml", ".env", ".evergrant/keyring.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_init_for_containers_puts_each_secret_in_a_file_of_its_own(tmp_path, capsys):
    """The configuration then holds none, and names them where Docker and Kubernetes show them."""
    told = ["--secrets-dir", str(tmp_path / "secrets"), *FLAGS]
    assert call(["init", "--directory", str(tmp_path), *told]) == 0
    assert str(tmp_path / "secrets/logs_authorization") in capsys.readouterr().out
    named = ["auth0_client_secret", "logs_authorization", "events_bearer", "actions_secret"]
    written = {name: tmp_path / "secrets" / name for name in named}
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o400 for file in written.values())
    assert not (tmp_path / ".env").exists()
    config = tmp_path / "evergrant.toml"
    assert all(f'"file:/run/secrets/{name}"' in config.read_text() for name in named)
    config.write_text(config.read_text().replace("/run/secrets", str(tmp_path / "secrets")))
    tenant = load({}, directory=tmp_path).tenants["default"]
    assert tenant.client_secret.text() == "s3cret"
    assert tenant.actions_secret[0].text().startswith("whsec_")
    assert len(Keyring.load(tmp_path / "secrets/keyring/keyring.json").keys) == 4


def test_init_overwrites_no_secret_either(tmp_path, capsys):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/events_bearer").write_text("kept")
    told = ["--secrets-dir", str(tmp_path / "secrets"), *FLAGS]
    assert call(["init", "--directory", str(tmp_path), *told]) == 2
    assert "events_bearer exists" in capsys.readouterr().err
    assert not (tmp_path / "evergrant.toml").exists()


def test_init_overwrites_nothing(tmp_path, capsys):
    call(["init", "--directory", str(tmp_path), *FLAGS])
    before = (tmp_path / ".evergrant/keyring.json").read_bytes()
    assert call(["init", "--directory", str(tmp_path), *FLAGS]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / ".evergrant/keyring.json").read_bytes() == before


@pytest.mark.parametrize(
    ("piped", "missing"),
    [
        ("", "--domain"),
        ("acme.eu.auth0.com\n", "--client-id"),
        ("acme.eu.auth0.com\nabc\n", "--client-secret"),
    ],
)
def test_init_without_anybody_to_ask_names_the_option(
    tmp_path, monkeypatch, capsys, piped, missing
):
    monkeypatch.setattr("sys.stdin", io.StringIO(piped))
    assert call(["init", "--directory", str(tmp_path)]) == 2
    assert f"give {missing}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_init_takes_what_is_piped_in(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("https://Acme.eu.auth0.com/\nabc\ns3cret\n"))
    assert call(["init", "--directory", str(tmp_path)]) == 0
    tenant = load({}, directory=tmp_path).tenants["default"]
    assert (tenant.domain, tenant.client_id) == ("acme.eu.auth0.com", "abc")


@pytest.mark.parametrize("name", ["Acme", "-acme", "a" * 64, "é"])
def test_init_gives_no_tenant_a_name_that_no_command_takes(tmp_path, capsys, name):
    assert call(["init", "--directory", str(tmp_path), *FLAGS, "--tenant", name]) == 2
    assert "--tenant" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EVERGRANT_DATA_DIR", "elsewhere"),
        ("EVERGRANT_KEYRING", "keys/ring.json"),
        ("EVERGRANT_KEYRING", "file:keys/ring.json"),
    ],
)
def test_init_puts_the_keyring_where_the_commands_look(tmp_path, monkeypatch, variable, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    assert call(["init", *FLAGS]) == 0
    assert Path(load().keyring).exists()
    assert not (tmp_path / ".evergrant").exists()


def test_init_makes_no_keyring_where_one_is_named_that_is_not_a_file_of_its_own(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_KEYRING", "vault://v.example/transit/k#/k.json")
    assert call(["init", *FLAGS, "--json"]) == 0
    assert "keyring" not in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"evergrant.toml", ".env"}


@pytest.mark.parametrize("given", ['a"b', "a b", "a\\b", "a$b", "a\nb", "a'b", "a#b"])
@pytest.mark.parametrize("option", ["--domain", "--client-id", "--client-secret", "--tenant"])
def test_init_writes_nothing_that_could_not_be_read_again(tmp_path, capsys, option, given):
    assert call(["init", "--directory", str(tmp_path), *FLAGS, option, given]) == 2
    assert option in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nonsense"], 2, "No such command"),
        (["status"], 2, "no evergrant.toml in"),
        (["tokens", "get", "x"], 2, "Missing argument"),
        (["--version"], 0, "evergrant "),
    ],
    ids=["unknown command", "no database yet", "a missing argument", "the version"],
)
def test_every_mistake_gets_a_line_and_a_code(tmp_path, monkeypatch, capsys, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    assert call(arguments) == code
    said = capsys.readouterr()
    assert says in said.out + said.err
    assert "Traceback" not in said.err


def test_every_command_explains_itself(capsys):
    from worker.cli.app import _ELSEWHERE, _RUN

    for name in (*_RUN, *_ELSEWHERE):
        assert call([name, "--help"]) == 0
        assert name in capsys.readouterr().out


def test_flower_open_to_the_network_needs_a_password(tmp_path):
    from worker.cli.run import flower_arguments
    from worker.domain.errors import ConfigurationError

    exposed = load({"EVERGRANT_FLOWER_HOST": "0.0.0.0"}, directory=tmp_path)
    with pytest.raises(ConfigurationError, match="EVERGRANT_FLOWER_AUTH"):
        flower_arguments(exposed)
