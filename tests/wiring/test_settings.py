"""What can be set, where from, and what happens to a misspelling."""

from datetime import timedelta
from pathlib import Path

import pytest

from worker.domain.errors import ConfigurationError
from worker.domain.ports import NOTICE_KINDS
from worker.domain.secret import Secret
from worker.settings import load

TENANT = """
[tenants.acme]
domain = "https://Acme.eu.auth0.com/"
client_id = "abc"
client_secret = "env:ACME_SECRET"
"""


@pytest.fixture
def read(tmp_path):
    def read(toml=None, **environ):
        if toml is not None:
            (tmp_path / "evergrant.toml").write_text(toml)
        return load(environ, directory=tmp_path)

    return read


def test_nothing_set_is_an_embedded_product(read, tmp_path):
    settings = read()
    assert settings.database_url == f"sqlite:///{tmp_path}/.evergrant/evergrant.db"
    assert settings.embedded_broker
    assert settings.embedded_database
    assert (settings.host, settings.port) == ("127.0.0.1", 8377)
    assert settings.tick == timedelta(seconds=5)
    assert settings.tenants == {}
    assert not settings.allow_loopback


def test_the_names_auth0s_own_tools_use_make_the_default_tenant(read):
    settings = read(
        AUTH0_DOMAIN="acme.eu.auth0.com",
        AUTH0_CLIENT_ID="abc",
        AUTH0_CLIENT_SECRET="s3cret",
        EVERGRANT_ACTIONS_SECRET="whsec_eA==",
    )
    tenant = settings.tenants["default"]
    assert (tenant.domain, tenant.client_id) == ("acme.eu.auth0.com", "abc")
    assert tenant.client_secret == Secret("s3cret")
    assert tenant.actions_secret == (Secret("whsec_eA=="),)


def test_a_tenant_of_the_file_keeps_its_secret_elsewhere(read):
    settings = read(TENANT, ACME_SECRET="s3cret")
    assert settings.tenants["acme"].domain == "acme.eu.auth0.com"
    assert settings.tenants["acme"].client_secret == Secret("s3cret")


@pytest.mark.parametrize("name", ["EVERGRANT_DELETION_QUIET", "EVERGRANT_DELETION_CONFIRM"])
def test_what_cannot_be_undone_is_not_done_in_haste(read, name):
    with pytest.raises(ConfigurationError, match="at least"):
        read(**{name: "10"})
    assert read(**{name: "10", "EVERGRANT_ALLOW_LOOPBACK": "1"})


def test_a_value_may_stand_in_a_file_beside_the_configuration(read, tmp_path):
    (tmp_path / "key.pem").write_text("PEM\n")
    settings = read(
        '[tenants.acme]\ndomain="a.auth0.com"\nclient_id="x"\nprivate_key="file:key.pem"\n'
    )
    assert settings.tenants["acme"].private_key == Secret("PEM")


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("env:KEYS", "env:KEYS"),
        ("file:keys.json", "{directory}/keys.json"),
        ("vault://v.example/transit/k#/k.json", "vault://v.example/transit/k#/k.json"),
    ],
)
def test_where_a_keyring_lies_is_handed_on_and_not_read(read, tmp_path, told, address):
    """The key itself has no place in the settings: each role takes its part of it."""
    address = address.format(directory=tmp_path)
    tenant = TENANT + f'keyring = "{told}"\n'
    settings = read(f'keyring = "{told}"\n' + tenant, ACME_SECRET="x")
    assert (settings.keyring, settings.tenants["acme"].keyring) == (address, address)
    assert settings.own_keyrings == {}, "it is the deployment's by the same name"
    assert read("", EVERGRANT_KEYRING=told).keyring == address
    settings = read(tenant, ACME_SECRET="x")
    assert settings.own_keyrings == {"acme": address}


def test_the_environment_wins_over_dotenv_and_both_over_the_file(read, tmp_path):
    (tmp_path / ".env").write_text("EVERGRANT_PORT=2\nEVERGRANT_HOST=0.0.0.0\n")
    settings = read("port = 1\ntick = 3\n", EVERGRANT_PORT="3")
    assert settings.port == 3
    assert settings.host == "0.0.0.0"
    assert settings.base_url == "http://127.0.0.1:3"
    assert settings.tick == timedelta(seconds=3)


def test_a_tick_may_be_a_fraction_of_a_second(read):
    assert read(EVERGRANT_TICK="0.25").tick == timedelta(milliseconds=250)


def test_a_webhook_secret_may_be_two_while_it_is_rotated(read):
    settings = read(TENANT + 'logs_authorization = ["old", "new"]', ACME_SECRET="x")
    assert settings.tenants["acme"].logs_authorization == (Secret("old"), Secret("new"))


def test_any_catalogue_key_may_be_set_on_a_connection(read):
    settings = read(
        TENANT + '[tenants.acme.connections.crm]\ntoken_url = "https://crm.example/token"\n'
        'client_secret = "env:ACME_SECRET"\nrequired_scopes = ["a"]\n',
        ACME_SECRET="s3cret",
    )
    connection = settings.tenants["acme"].connections["crm"]
    assert connection.overrides == {"token_url": "https://crm.example/token"}
    assert connection.client_secret == Secret("s3cret")
    assert connection.required_scopes == ("a",)
    assert connection.enabled


def test_bootstrap_api_keys_are_name_secret_and_scope(read):
    keys = read(EVERGRANT_API_KEYS="crm:k1:acme/*/* ops:k2:*:*:*").api_keys
    assert [(k.name, k.secret, k.scope) for k in keys] == [
        ("crm", Secret("k1"), "acme/*/*"),
        ("ops", Secret("k2"), "*:*:*"),
    ]


REFUSED = {
    "a misspelt key": ("tikc = 3", {}, r"evergrant\.toml:1: unknown key tikc; did you mean tick\?"),
    "a misspelt key of a tenant": (
        TENANT + 'clientid = "x"',
        {"ACME_SECRET": "x"},
        r"unknown key tenants\.acme\.clientid; did you mean client_id\?",
    ),
    "a missing key": ('[tenants.acme]\nclient_id="x"', {}, r"tenants\.acme\.domain: is missing"),
    "no credential": (
        '[tenants.acme]\ndomain="a.b"\nclient_id="x"',
        {},
        r"tenants\.acme: needs client_secret",
    ),
    "a domain with a path": (
        '[tenants.acme]\ndomain="a.b/c"\nclient_id="x"\nclient_secret="hidden"',
        {},
        r"tenants\.acme\.domain: must be a host name",
    ),
    "a tenant name that fits no URL": (
        TENANT.replace("acme", '"A/b"'),
        {"ACME_SECRET": "x"},
        "lower case letters",
    ),
    "a variable that is not set": (TENANT, {}, r"tenants\.acme\.client_secret: ACME_SECRET is not"),
    "a file that is not there": ('flower_auth = "file:nowhere"', {}, "nowhere: No such file"),
    "broken TOML": ("port = \nhost = 1", {}, r"evergrant\.toml: .*line 1"),
    "a port that is none": ("port = 99999", {}, "port: "),
    "a tick of nothing": ("", {"EVERGRANT_TICK": "0"}, r"tick: must be between 0\.05"),
    "a rehearsal address without its switch": (
        TENANT + 'base_url = "http://127.0.0.1:1"',
        {"ACME_SECRET": "x"},
        "EVERGRANT_ALLOW_LOOPBACK=1",
    ),
    "an API key of two parts": ("", {"EVERGRANT_API_KEYS": "a:b"}, "name:secret:scope"),
    "a configuration that is not there": ("", {"EVERGRANT_CONFIG": "x.toml"}, "not a file"),
}


@pytest.mark.parametrize(("toml", "environ", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused_with_file_key_and_advice(read, toml, environ, message):
    with pytest.raises(ConfigurationError, match=message) as refused:
        read(toml, **environ)
    assert "hidden" not in str(refused.value)
    assert refused.value.__cause__ is None or "hidden" not in repr(refused.value.__cause__)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("TIK", "TICK"), ("DATABSE_URL", "DATABASE_URL"), ("DATABASE_URL_FILE", "DATABASE_URL")],
)
def test_a_misspelt_variable_stops_the_start_with_the_right_name(read, name, meant):
    """A worker without its database would start on another, empty one."""
    message = f"EVERGRANT_{name} is no setting; did you mean EVERGRANT_{meant}\\?"
    with pytest.raises(ConfigurationError, match=message):
        read(**{f"EVERGRANT_{name}": "3"})


@pytest.mark.parametrize("name", ["SERVICE_HOST", "SERVICE_PORT", "IMAGE"])
def test_a_variable_that_resembles_no_setting_is_warned_about(read, name):
    """Kubernetes names some after every service."""
    settings = read(**{f"EVERGRANT_{name}": "3"})
    assert settings.warnings == (f"EVERGRANT_{name} is no setting",)


def test_a_variable_of_the_operators_own_may_resemble_a_setting(read):
    keyring = {"EVERGRANT_KEYRING": "env:EVERGRANT_KEYRINGS", "EVERGRANT_KEYRINGS": "{}"}
    assert read(**keyring).warnings == ()
    assert read(EVERGRANT_API_KEY="of an app").warnings == ()
    told = TENANT.replace("ACME_SECRET", "EVERGRANT_ACTION_SECRET")
    assert read(told, EVERGRANT_ACTION_SECRET="x").warnings == ()


def test_settings_show_no_secret(read):
    settings = read(
        AUTH0_DOMAIN="a.b",
        AUTH0_CLIENT_ID="abc",
        AUTH0_CLIENT_SECRET="canary",
        EVERGRANT_DATABASE_URL="postgresql://u:canary@h/d",
        EVERGRANT_BROKER_URL="amqp://u:canary@h//",
        EVERGRANT_API_KEYS="a:canary:*",
    )
    assert "canary" not in repr(settings)


HOOK = '[[notices]]\nurl = "https://x.example"\nsecret = "whsec_c2VjcmV0"\n'


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (TENANT.replace('"env:ACME_SECRET"', '""'), "client_secret: is empty"),
        (TENANT.replace('"env:ACME_SECRET"', "5"), "client_secret: write text"),
        (TENANT + 'events_bearer = ["a", ""]', "events_bearer: is empty"),
        (TENANT + 'events_basic = "canary"', 'events_basic: write "user:password"'),
        (TENANT + 'events_basic = ["u:p", "canary:"]', "events_basic: write"),
        (TENANT + 'events_header = "canary"', 'events_header: write "Name: value"'),
        (TENANT + 'actions_secret = "whsec_canary!"', "actions_secret: must be base64"),
        (TENANT + 'actions_secret = "whsec_"', "actions_secret: must be base64"),
        (HOOK.replace("whsec_c2VjcmV0", "canary"), "secret: must be base64"),
        (HOOK.replace("https", "ftp"), "url: write the address"),
        (HOOK.replace("https://x.example", "x.example"), "url: write the address"),
        (HOOK + 'kinds = ["grant_need_login"]', "did you mean grant_needs_login?"),
    ],
)
def test_what_could_never_work_stops_the_start(read, toml, words):
    with pytest.raises(ConfigurationError) as refused:
        read(toml, ACME_SECRET="s3cret")
    assert "evergrant.toml:" in str(refused.value)
    assert words in str(refused.value)
    assert "canary" not in str(refused.value)


def test_an_action_of_ones_own_may_tell_a_kind_of_its_own(read):
    mine = '[[actions]]\nrun = "mine:told"\ntrigger = "login"\n'
    assert read(HOOK + 'kinds = ["crm_told"]\n' + mine).notices[0].kinds == ("crm_told",)


def test_the_kinds_of_notices_are_those_the_manual_names():
    page = (Path(__file__).parents[2] / "docs/actions.md").read_text()
    assert {kind for kind in NOTICE_KINDS if f"`{kind}`" not in page} == set()
