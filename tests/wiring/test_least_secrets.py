"""A role reads the secrets it uses: it runs without the others, and holds none of them."""

from __future__ import annotations

import pytest

from worker.domain.errors import ConfigurationError
from worker.settings import act_as, load

CONFIG = """\
[tenants.acme]
domain = "acme.eu.auth0.com"
client_id = "abc"
client_secret = "file:auth0"
logs_authorization = ["file:logs"]
actions_secret = "file:actions"

[tenants.acme.connections.crm]
required_scopes = ["contacts.read"]
client_secret = "file:crm"

[[notices]]
url = "https://ops.acme.example"
secret = "file:notices"

[[actions]]
run = "acme.chat:post"
trigger = "grant_needs_login"
secrets = { hook = "file:chat" }
"""
ALL = {"auth0", "logs", "actions", "crm", "notices", "chat"}
READS = {
    "web": {"logs", "actions"},
    "scheduler": set(),
    "flower": set(),
    "keyring": set(),
    "worker": ALL,
    None: ALL,
}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "evergrant.toml").write_text(CONFIG)
    return tmp_path


def give(place, names):
    for name in names:
        told = f"whsec_{'A' * 40}" if name in ("actions", "notices") else f"the-{name}"
        (place / name).write_text(told)


@pytest.mark.parametrize(("role", "names"), READS.items())
def test_a_role_starts_with_the_secrets_it_uses_alone(place, role, names):
    give(place, names)
    tenant = load({}, directory=place, role=role).tenants["acme"]
    assert [one.text() for one in tenant.logs_authorization] == ["the-logs"] * ("logs" in names)
    assert tenant.connections["crm"].required_scopes == ("contacts.read",)


@pytest.mark.parametrize(
    ("role", "name"), [(r, n) for r, names in READS.items() for n in sorted(names)]
)
def test_a_role_does_not_start_without_a_secret_it_uses(place, role, name):
    give(place, ALL - {name})
    with pytest.raises(ConfigurationError, match=f"file:{name}: No such file"):
        load({}, directory=place, role=role)


def test_what_a_role_does_not_use_it_does_not_hold(place):
    give(place, ALL)
    settings = load({"AUTH0_CLIENT_SECRET": "the-default"}, directory=place, role="web")
    assert settings.tenants["acme"].client_secret is None
    assert settings.tenants["acme"].connections["crm"].client_secret is None
    assert (settings.notices, settings.actions) == ((), ())


def test_the_default_tenants_secrets_in_the_environment_are_read_alike(tmp_path):
    told = {"AUTH0_DOMAIN": "acme.eu.auth0.com", "AUTH0_CLIENT_ID": "abc"}
    secret = {"AUTH0_CLIENT_SECRET": "file:nowhere"}
    tenant = load(told | secret, directory=tmp_path, role="scheduler").tenants["default"]
    assert tenant.client_secret is None
    with pytest.raises(ConfigurationError, match="needs client_secret"):
        load(told, directory=tmp_path, role="worker")


def test_a_process_is_told_its_role_once(place, monkeypatch):
    """Whatever reads the settings later reads as much: the Celery application does by itself."""
    monkeypatch.setenv("EVERGRANT_ROLE", "")
    with pytest.raises(ConfigurationError):
        load(directory=place)
    act_as("scheduler")
    settings = load(directory=place)
    assert not any("EVERGRANT_ROLE" in warning for warning in settings.warnings)
