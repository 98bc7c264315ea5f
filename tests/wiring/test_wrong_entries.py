"""Mistakes in evergrant.toml: each stops the start, and file, line and remedy are told.

Read as the product reads it: the file, then the catalogue that it changes.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import jsonschema
import pytest

from worker import settings
from worker.bootstrap.base import load_entries
from worker.domain.errors import ConfigurationError
from worker.providers.schema import configuration_schema

TENANT = '[tenants.acme]\ndomain = "acme.eu.auth0.com"\nclient_id = "m2m"\nclient_secret = "s"\n'
CRM = TENANT + "[tenants.acme.connections.crm]\n"  # the next line is the sixth
MINE = '[providers.mine]\ndisplay_name = "Mine"\ntoken_endpoint = "https://id.example/t"\n'  # 4th

# text, line, words of the message
PROVIDERS = {
    "key": (MINE + 'rotaton = "none"', 4, "unknown key 'rotaton'; did you mean 'rotation'?"),
    "value": (MINE + 'rotation = "single"', 4, "did you mean 'single_use'?"),
    "value, none close": (MINE + '[providers.mine.revoke]\neffect = "user"', 5, "app, grant, pair"),
    "hook": (MINE + 'hook = "apple_secret"', 4, "there is no hook 'apple_secret'; there is intro"),
    "hook without its key": (MINE + 'hook = "introspect_expiry"', 4, "introspection_endpoint"),
    "duration": (MINE + 'lifetimes = { access = "1 hour" }', 4, "45s, 15m, 8h or 60d"),
    "negative duration": (MINE + 'rotation_grace = "-5s"', 4, "45s, 15m, 8h or 60d"),
    "number for text": (MINE + "lifetimes = { access = 3600 }", 4, "in quotes"),
    "text for number": (MINE + 'limits = { per_second = "many" }', 4, "a number, without quotes"),
    "out of range": (MINE + "limits = { concurrency = 0 }", 4, "a number >= 1"),
    "text for list": (MINE + 'requires_scopes = "offline_access"', 4, 'a list: ["…"]'),
    "text for table": (MINE + 'revoke = "https://a"', 4, "a table: { key = … }"),
    "day": (MINE + 'dead_since = "soon"', 4, "2026-11-28, without quotes"),
    "client_auth": (MINE + 'client_auth = "private_key"', 4, "'private_key_jwt'"),
    "key in a table": (MINE + '[providers.mine.revoke]\nendpont = "x"', 5, "'endpoint'"),
    "key in a list": (MINE + 'applies_when = [{ optoin = "x" }]', 4, "did you mean 'option'?"),
    "key, none close": (MINE + '[providers.mine.errors]\nfatal = ["x"]', 5, "codes_at, config"),
    "form of expiry": (MINE + 'expiry = [{ form = "ms", path = "x" }]', 4, "epoch, epoch_ms"),
    "expiry without path": (MINE + 'expiry = [{ form = "epoch" }]', 4, "needs a path"),
    "path": (MINE + 'response_map = { scope = ["a..b"] }', 4, "error.code or errors[0].type"),
    "open brace": (MINE + 'refresh_endpoint = "https://a/{tenant"', 4, "a brace is left open"),
    "placeholder": (MINE + 'extra_params = { scope = "{a b}" }', 4, "neither a name"),
    "plain http": (MINE + 'refresh_endpoint = "http://id.example/t"', 4, "begins with https://"),
    "no address": (MINE + 'refresh_endpoint = "id.example/t"', 4, "begins with https://"),
    "user in address": (MINE + 'refresh_endpoint = "https://u:p@a/t"', 4, "use client_id"),
    "header": (MINE + 'headers = { "X-A" = "a\\r\\nX-B: b" }', 4, "control character"),
    "grace without length": (MINE + 'rotation = "single_use_grace"', 4, "needs rotation_grace"),
    "base": ('[providers.mine]\nextends = "gogle-oauth2"', 2, "did you mean 'google-oauth2'?"),
    "its own base": (MINE + 'extends = "mine"', 4, "extends itself"),
    "strategy": (MINE + 'strategies = ["gogle-oauth2"]', 4, "did you mean 'google-oauth2'?"),
    "no endpoint": ('[providers.mine]\ndisplay_name = "M"', 1, "token_endpoint is missing"),
    "no name": ('[providers.mine]\ntoken_endpoint = "https://a/t"', 1, "display_name is missing"),
    "odd name": ('[providers."My IdP"]\ndisplay_name = "M"\ngrant = "none"', 2, "no name"),
    "shipped entry": ('[providers.box.revoke]\nefect = "app"', 2, "did you mean 'effect'?"),
    "no table": ('providers = "x"', 1, "write a table"),
}
CONNECTIONS = {
    "key": (CRM + 'rotaton = "none"', 6, "unknown key 'rotaton'; did you mean 'rotation'?"),
    "key in a table": (
        CRM + '[tenants.acme.connections.crm.revoke]\nendpont = "x"',
        7,
        "did you mean 'endpoint'?",
    ),
    "value": (CRM + 'rotation = "sometimes"', 6, "none, single_use, single_use_grace"),
    "provider": (CRM + 'provider = "salesfroce"', 6, "did you mean 'salesforce'?"),
    "algorithm": (CRM + 'signing_alg = "RS265"', 6, "did you mean 'RS256'?"),
    "private key": (CRM + 'private_key = "hunter2"', 6, "in PEM is needed"),
    "key file": (CRM + 'private_key = "file:nope.pem"', 6, "No such file"),
    "environment": (CRM + 'client_secret = "env:NOPE"', 6, "NOPE is not in the environment"),
    "switch": (CRM + 'enabled = "perhaps"', 6, "write true or false"),
    "scopes": (CRM + 'required_scopes = "a b"', 6, "write a list"),
    "fill": (CRM + 'fill = "x"', 6, "a table: { key = … }"),
    "plain http": (CRM + 'token_endpoint = "http://10.0.0.1/t"', 6, "begins with https://"),
    "table": (TENANT + "[tenants.acme.conections.crm]", 5, "did you mean connections?"),
    "tenant": (TENANT.replace("client_id", "clientid"), 3, "did you mean client_id?"),
    "setting": ("concurency = 3\n" + TENANT, 1, "did you mean concurrency?"),
}
WRONG = {f"provider: {name}": case for name, case in PROVIDERS.items()} | {
    f"connection: {name}": case for name, case in CONNECTIONS.items()
}


def start(directory: Path, text: str) -> None:
    (directory / "evergrant.toml").write_text(text + "\n")
    load_entries(settings.load({}, directory=directory))


@pytest.mark.parametrize(("text", "line", "words"), WRONG.values(), ids=WRONG)
def test_a_mistake_stops_the_start_with_line_and_remedy(tmp_path, text, line, words):
    with pytest.raises(ConfigurationError) as stopped:
        start(tmp_path, text)
    told = str(stopped.value)
    assert f"evergrant.toml:{line}: " in told
    assert words in told
    assert not {"hunter2", "u:p"} & set(told.replace("'", " ").split())


def test_what_the_mistakes_stand_beside_is_right(tmp_path):
    start(tmp_path, MINE)
    start(tmp_path, CRM + 'provider = "salesforce"\nsigning_alg = "ES256"')


def test_plain_http_is_for_rehearsals(tmp_path):
    (tmp_path / "evergrant.toml").write_text(MINE.replace("https:", "http:"))
    told = settings.load({"EVERGRANT_ALLOW_LOOPBACK": "1"}, directory=tmp_path)
    assert load_entries(told)["mine"].token_endpoint == "http://id.example/t"


# What an editor can see by the schema alone: keys, values, types; not how keys hang together.
SEEN = [
    "provider: key",
    "provider: value",
    "provider: value, none close",
    "provider: duration",
    "provider: number for text",
    "provider: text for number",
    "provider: out of range",
    "provider: text for list",
    "provider: text for table",
    "provider: client_auth",
    "provider: key in a table",
    "provider: key in a list",
    "provider: form of expiry",
    "provider: shipped entry",
    "provider: no table",
    "connection: key",
    "connection: key in a table",
    "connection: value",
    "connection: switch",
    "connection: scopes",
    "connection: fill",
]


@pytest.mark.parametrize("name", SEEN)
def test_the_published_schema_sees_it_too(name):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(WRONG[name][0]), configuration_schema())


def test_the_published_schema_takes_what_the_start_takes():
    for text in (MINE, CRM + 'provider = "box"\nprivate_key = "file:a"\nenabled = false\n'):
        jsonschema.validate(tomllib.loads(text), configuration_schema())


def test_a_private_key_shows_in_no_repr(tmp_path):
    (tmp_path / "evergrant.toml").write_text(CRM + 'private_key = "hunter2"\n')
    told = settings.load({}, directory=tmp_path)
    assert "hunter2" not in repr(told)
    assert "hunter2" not in repr(told.tenants["acme"].connections["crm"].overrides)
