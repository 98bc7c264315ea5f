"""The catalogue is checked before anything runs on it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from tests.providers.conftest import a_connection
from worker.domain.errors import ConfigurationError
from worker.providers import load_catalogue, loading
from worker.providers.complaints import Origin
from worker.providers.schema import catalogue_schema

# Auth0's strategies that issue OAuth tokens or at least exist (SDK 6.8.0), those gone from the
# list, and the spellings of its event and log schemas.
_STRATEGIES = """ad adfs amazon apple auth0 auth0-oidc asana atlassian baidu bitbucket bitly box
cloudflare-mcp custom daccount dropbox dwolla email evernote evernote-sandbox exact facebook fitbit
github gitlab google-apps google-oauth2 hubspot-mcp instagram ip line linear-mcp linkedin notion-mcp
oauth1 oauth2 office365 oidc okta paypal paypal-sandbox pingfederate planningcenter salesforce
salesforce-community salesforce-sandbox samlp sentry-mcp sharepoint shop shopify slack sms
soundcloud thirtysevensignals twitter untappd untapped vkontakte waad weibo windowslive wordpress
yahoo yandex
yammer renren miicard thecity aol oktawic"""
STRATEGIES = _STRATEGIES.split()


def test_every_strategy_of_auth0_has_an_entry(catalogue):
    served = {strategy for name in catalogue.names() for strategy in catalogue[name].strategies}
    assert set(STRATEGIES) <= served


def test_every_entry_says_where_its_facts_come_from(catalogue):
    for name in catalogue.names():
        entry = catalogue[name]
        assert entry.source, name
        assert entry.as_of is not None, name
        assert entry.confidence != "operator", name
        if entry.changes:
            assert entry.changes == sorted(entry.changes, key=lambda change: change.on)
        if entry.grant == "none":
            assert entry.nothing_to_renew, name
        if entry.dead_since:
            assert entry.dead_reason, name
            assert entry.dead_since <= entry.as_of, name


def test_only_one_plain_entry_serves_a_strategy(catalogue):
    """Two without a condition would leave the choice to the order of the file."""
    for strategy in STRATEGIES:
        plain = [
            name
            for name in catalogue.names()
            if strategy in catalogue[name].strategies and not catalogue[name].applies_when
        ]
        assert len(plain) == 1, (strategy, plain)


WRONG = {
    "unknown key": (
        '[providers.google-oauth2]\nrotaton = "none"\n',
        "evergrant.toml:2: provider google-oauth2: unknown key 'rotaton'; did you mean 'rotation'?",
    ),
    "unknown key in a table": (
        '[providers.mine]\ndisplay_name = "Mine"\n[providers.mine.revoke]\nendpont = "x"\n',
        "evergrant.toml:4: provider mine: unknown key 'revoke.endpont'; did you mean 'endpoint'?",
    ),
    "unknown value": (
        '[providers.box]\n\nrotation = "single_us"\n',
        "evergrant.toml:3: provider box: 'single_us' is no value of rotation; "
        "did you mean 'single_use'?",
    ),
    "unknown hook": (
        '[providers.box]\nhook = "introspect_expiri"\n',
        "evergrant.toml:2: provider box: there is no hook 'introspect_expiri'; "
        "did you mean 'introspect_expiry'?",
    ),
    "duration": (
        '[providers.box]\nlifetimes = { access = "1 hour" }\n',
        "evergrant.toml:2: provider box: lifetimes.access: write a number and a unit",
    ),
    "template": (
        '[providers.box]\ntoken_endpoint = "https://{host/x"\n',
        "evergrant.toml:2: provider box: template 'https://{host/x': a brace is left open",
    ),
    "base": (
        '[providers.mine]\ndisplay_name = "Mine"\nextends = "githup"\n',
        "evergrant.toml:3: provider mine: there is no entry 'githup'; did you mean 'github'?",
    ),
    "circle": (
        '[providers.github]\nextends = "github-app"\n',
        "extends itself",
    ),
    "grace without a length": (
        '[providers.box]\nrotation = "single_use_grace"\n',
        'evergrant.toml:2: provider box: rotation = "single_use_grace" needs rotation_grace',
    ),
    "no endpoint": (
        '[providers.mine]\ndisplay_name = "Mine"\n',
        "evergrant.toml:1: provider mine: token_endpoint is missing",
    ),
    "path": (
        '[providers.box]\nresponse_map = { access_token = ["a..b"] }\n',
        "evergrant.toml:2: provider box: 'a..b' is not a path",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_stops_the_start_and_names_the_line(text, message, tmp_path: Path):
    import tomllib

    path = tmp_path / "evergrant.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as stopped:
        load_catalogue(tomllib.loads(text)["providers"], allow_loopback=False, config_path=path)
    assert message in str(stopped.value)


def test_an_operator_overrides_one_key_and_keeps_the_rest():
    catalogue = load_catalogue({"box": {"lifetimes": {"access": "2h"}}}, allow_loopback=False)
    assert catalogue["box"].lifetimes.access == "2h"
    assert catalogue["box"].lifetimes.refresh == "60d"
    assert catalogue["box"].rotation == "single_use"


def test_an_override_reaches_the_entries_that_extend_it():
    catalogue = load_catalogue({"waad": {"limits": {"concurrency": 3}}}, allow_loopback=False)
    assert catalogue["waad-v1"].limits.concurrency == 3


@pytest.mark.parametrize("host", ["id.tracker.example", ["id.tracker.example"]])
def test_an_operator_adds_a_provider_of_his_own(host):
    """One host may be written without the list."""
    mine = {
        "tracker": {
            "display_name": "Tracker",
            "match_token_host": host,
            "token_endpoint": "{token_url}",
            "client_auth": "basic",
            "rotation": "single_use",
        }
    }
    catalogue = load_catalogue(mine, allow_loopback=False)
    connection = a_connection("oauth2", {"tokenURL": "https://id.tracker.example/token"})
    assert catalogue.resolve(connection, has_refresh_token=True).name == "tracker"


def test_a_connection_overrides_keys_of_its_entry(catalogue):
    connection = a_connection(
        "oauth2",
        {"tokenURL": "https://id.tracker.example/token"},
        overrides={"rotation": "none", "timing": {"margin": "30s"}, "required_scopes": ["a"]},
    )
    provider = catalogue.resolve(connection, has_refresh_token=True)
    assert provider.rotation == "N"
    assert provider.lifetimes.margin.total_seconds() == 30


def test_a_wrong_key_of_a_connection_is_found_when_it_is_checked(catalogue):
    with pytest.raises(ConfigurationError, match="did you mean 'client_auth'"):
        catalogue.check_connection(
            "acme-crm", {"client_aut": "basic"}, Origin(name="evergrant.toml")
        )


def test_the_published_schema_is_the_one_of_the_types():
    """`python -m worker.providers.schema` writes it anew."""
    path = files("worker.providers").joinpath("catalog.schema.json")
    assert json.loads(path.read_text()) == catalogue_schema()


def test_the_published_schema_accepts_the_catalogue_and_refuses_a_typo():
    raw, _ = loading.shipped()
    plain = json.loads(json.dumps(raw, default=str))
    jsonschema.validate(plain, catalogue_schema())
    plain["box"]["rotaton"] = "none"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, catalogue_schema())
