"""What leaves for the token endpoint, byte for byte where it matters."""

from __future__ import annotations

import base64
from datetime import timedelta
from urllib.parse import parse_qs, parse_qsl, urlsplit

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.providers.conftest import NOW, a_connection
from worker.domain.errors import ConfigurationError
from worker.domain.secret import Secret
from worker.providers import load_catalogue
from worker.providers.client_auth import apple_secret

RT = Secret("the-refresh-token")
APPLE_KEY = ec.generate_private_key(ec.SECP256R1())


def asked(catalogue, connection, *, scope=None, now=NOW):
    provider = catalogue.resolve(connection, has_refresh_token=True)
    return provider.request(connection, subject=RT, scope=scope, now=now)


def form(request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode(), strict_parsing=True))


def pem(key) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def test_the_plain_case_is_rfc_6749(catalogue):
    request = asked(catalogue, a_connection("google-oauth2"))
    assert (request.method, request.url) == ("POST", "https://oauth2.googleapis.com/token")
    assert request.host == "oauth2.googleapis.com"
    assert form(request) == {
        "grant_type": "refresh_token",
        "refresh_token": "the-refresh-token",
        "client_id": "our-client",
        "client_secret": "our-secret",
    }
    assert request.headers["accept"] == "application/json"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"


def test_basic_authentication_puts_nothing_of_the_client_into_the_body(catalogue):
    request = asked(catalogue, a_connection("bitbucket", client_secret="s:/+ "))
    sent = base64.b64decode(request.headers["authorization"].removeprefix("Basic "))
    assert sent == b"our-client:s%3A%2F%2B+"
    assert set(form(request)) == {"grant_type", "refresh_token"}


@pytest.mark.parametrize("client_auth", ["post", "basic", "none", "per_connection"])
def test_an_authorization_header_of_the_connection_is_the_only_proof(catalogue, client_auth):
    connection = a_connection(
        "oauth2",
        {"tokenURL": "https://id.tracker.example/token"},
        headers={"Authorization": "Basic abc", "X-Tracker": "2", "Host": "evil.example"},
        overrides={"client_auth": client_auth},
    )
    request = asked(catalogue, connection)
    assert request.headers["authorization"] == "Basic abc"
    assert request.headers["x-tracker"] == "2"
    assert "host" not in request.headers
    assert set(form(request)) == {"grant_type", "refresh_token"}


METHODS, POST = "token_endpoint_auth_methods_supported", "client_secret_post"
PER_CONNECTION = {
    "silent": ({}, "post"),
    "says post": ({"token_endpoint_auth_method": "client_secret_post"}, "post"),
    "says basic": ({"token_endpoint_auth_method": "client_secret_basic"}, "basic"),
    "metadata without post": (
        {"oidc_metadata": {"token_endpoint_auth_methods_supported": ["client_secret_basic"]}},
        "basic",
    ),
    "metadata with both": ({"oidc_metadata": {METHODS: ["client_secret_basic", POST]}}, "post"),
}


@pytest.mark.parametrize(("options", "way"), PER_CONNECTION.values(), ids=PER_CONNECTION)
def test_the_connection_says_how_its_client_proves_itself(catalogue, options, way):
    connection = a_connection("oidc", {"token_endpoint": "https://id.t.example/t", **options})
    request = asked(catalogue, connection)
    in_header, in_body = "authorization" in request.headers, "client_secret" in form(request)
    assert (in_header, in_body) == (way == "basic", way == "post")


def test_private_key_jwt_signs_with_the_operators_own_key(catalogue):
    key = rsa.generate_private_key(65537, 2048)
    connection = a_connection(
        "oidc",
        {
            "token_endpoint": "https://id.t.example/t",
            "token_endpoint_auth_method": "private_key_jwt",
        },
        overrides={"private_key": Secret(pem(key)), "key_id": "k1"},
        client_secret=None,
    )
    sent = form(asked(catalogue, connection))
    assert "client_secret" not in sent
    claims = jwt.decode(
        sent["client_assertion"],
        key.public_key(),
        ["RS256"],
        audience="https://id.t.example/t",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims["iss"] == claims["sub"] == "our-client"
    assert NOW.timestamp() < claims["exp"] <= NOW.timestamp() + 300
    assert jwt.get_unverified_header(sent["client_assertion"])["kid"] == "k1"


def test_a_key_that_does_not_fit_is_the_operators_fault_and_does_not_show(catalogue):
    connection = a_connection(
        "oidc",
        {
            "token_endpoint": "https://id.t.example/t",
            "token_endpoint_auth_method": "private_key_jwt",
        },
        overrides={"private_key": "no key at all"},
    )
    with pytest.raises(ConfigurationError) as refused:
        asked(catalogue, connection)
    assert refused.value.code == "bad_private_key"
    assert "no key at all" not in repr(refused.value)


def test_apple_gets_a_secret_that_we_sign(catalogue):
    key = ec.generate_private_key(ec.SECP256R1())
    connection = a_connection(
        "apple", {"team_id": "TEAM", "kid": "KID", "app_secret": pem(key)}, client_secret=None
    )
    sent = form(asked(catalogue, connection))
    claims = jwt.decode(
        sent["client_secret"],
        key.public_key(),
        ["ES256"],
        audience="https://appleid.apple.com",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert (claims["iss"], claims["sub"]) == ("TEAM", "our-client")
    assert jwt.get_unverified_header(sent["client_secret"])["kid"] == "KID"


@given(minutes=st.integers(0, 600), later=st.integers(0, 600))
def test_apples_secret_is_shared_for_a_while_and_good_whenever_it_is_sent(minutes, later):
    signs = a_connection("apple", {"team_id": "TEAM", "kid": "KID"}, client_secret=pem(APPLE_KEY))
    moments = [NOW + timedelta(minutes=m) for m in (minutes, minutes + later)]
    secrets = [apple_secret(signs, now) for now in moments]
    same = len({now.timestamp() // 1800 for now in moments}) == 1
    assert (secrets[0] == secrets[1]) == same
    for secret, now in zip(secrets, moments, strict=True):
        claims = jwt.decode(secret, options={"verify_signature": False})
        assert claims["iat"] <= now.timestamp() <= claims["exp"] - 1800
        assert claims["exp"] - claims["iat"] < 15_777_000  # Apple's limit: six months


def test_a_new_key_of_apples_signs_at_once():
    def signed(key):
        options = {"team_id": "TEAM", "kid": "KID"}
        return apple_secret(a_connection("apple", options, client_secret=pem(key)), NOW)

    other = ec.generate_private_key(ec.SECP256R1())
    for key in (APPLE_KEY, other):
        options = {"verify_exp": False, "verify_iat": False}
        audience = "https://appleid.apple.com"
        jwt.decode(signed(key), key.public_key(), ["ES256"], audience=audience, options=options)


TENANTS = {
    "tenant id": ({"tenantId": "1-2-3", "tenant_domain": "acme.example"}, "1-2-3"),
    "tenant domain": ({"tenant_domain": "acme.example"}, "acme.example"),
    "domain": ({"domain": "acme.example"}, "acme.example"),
    "common": ({"useCommonEndpoint": True}, "common"),
    "common off": ({"useCommonEndpoint": False, "tenantId": "1-2-3"}, "1-2-3"),
}


@pytest.mark.parametrize(("options", "segment"), TENANTS.values(), ids=TENANTS)
def test_microsoft_is_asked_at_the_connections_tenant(catalogue, options, segment):
    request = asked(catalogue, a_connection("waad", options))
    assert request.url == f"https://login.microsoftonline.com/{segment}/oauth2/v2.0/token"


def test_microsoft_without_a_tenant_is_not_sent_to_common(catalogue):
    with pytest.raises(ConfigurationError, match="tenantId or tenant_domain or domain"):
        asked(catalogue, a_connection("waad", {}))


SCOPES = {
    "graph": ("User.Read Mail.Read openid", "User.Read Mail.Read openid offline_access"),
    "first resource wins": (
        "https://acme.sharepoint.com/AllSites.Read User.Read offline_access",
        "https://acme.sharepoint.com/AllSites.Read offline_access",
    ),
    "graph, spelled out": (
        "https://graph.microsoft.com/User.Read Mail.Read api://x/y",
        "https://graph.microsoft.com/User.Read Mail.Read offline_access",
    ),
    "only openid": ("openid profile", None),
    "nothing known": (None, None),
}


@pytest.mark.parametrize(("granted", "sent"), SCOPES.values(), ids=SCOPES)
def test_microsoft_v2_names_scopes_of_one_resource(catalogue, granted, sent):
    request = asked(catalogue, a_connection("waad", {"tenantId": "t"}), scope=granted)
    assert form(request).get("scope") == sent
    assert "resource" not in form(request)


def test_auth0s_own_names_of_scopes_never_reach_microsoft(catalogue):
    """A windowslive connection asks for `graph_user`: sent along, that stops the connection."""
    connection = a_connection("windowslive", {"scope": ["signin", "graph_user", "offline_access"]})
    assert "scope" not in form(asked(catalogue, connection))
    told = form(asked(catalogue, connection, scope="User.Read"))
    assert told["scope"] == "User.Read offline_access"


def test_microsoft_v1_names_a_resource_and_no_scope(catalogue):
    options = {"tenantId": "t", "identity_api": "azure-active-directory-v1.0"}
    sent = form(asked(catalogue, a_connection("waad", options), scope="User.Read"))
    assert sent["resource"] == "https://graph.microsoft.com"
    assert "scope" not in sent
    chosen = a_connection("waad", options, overrides={"fill": {"resource": "https://api.acme"}})
    assert form(asked(catalogue, chosen))["resource"] == "https://api.acme"


def test_facebook_exchanges_the_access_token_by_query_string(catalogue):
    connection = a_connection("facebook")
    provider = catalogue.resolve(connection, has_refresh_token=False)
    request = provider.request(connection, subject=Secret("at"), scope=None, now=NOW)
    assert (request.method, request.body) == ("GET", b"")
    assert parse_qs(urlsplit(request.url).query) == {
        "grant_type": ["fb_exchange_token"],
        "fb_exchange_token": ["at"],
        "client_id": ["our-client"],
        "client_secret": ["our-secret"],
    }
    assert "at" not in repr(request).replace("at=", "")  # neither url nor body is shown


def test_instagram_needs_no_client_at_all(catalogue):
    connection = a_connection("instagram", client_id=None, client_secret=None)
    provider = catalogue.resolve(connection, has_refresh_token=False)
    request = provider.request(connection, subject=Secret("at"), scope=None, now=NOW)
    assert parse_qs(urlsplit(request.url).query) == {
        "grant_type": ["ig_refresh_token"],
        "access_token": ["at"],
    }


def test_quirks_of_parameters_are_data(catalogue):
    basecamp = asked(catalogue, a_connection("thirtysevensignals"))
    query = parse_qs(urlsplit(basecamp.url).query)
    assert (query["type"], "grant_type" in query) == (["refresh"], False)
    tiktok = a_connection("oauth2", {"tokenURL": "https://open.tiktokapis.com/v2/oauth/token/"})
    assert form(asked(catalogue, tiktok))["client_key"] == "our-client"
    notion = asked(catalogue, a_connection("notion"))
    assert msgspec.json.decode(notion.body)["grant_type"] == "refresh_token"
    figma = a_connection("oauth2", {"tokenURL": "https://api.figma.com/v1/oauth/token"})
    assert asked(catalogue, figma).url == "https://api.figma.com/v1/oauth/refresh"
    assert form(asked(catalogue, a_connection("yahoo")))["redirect_uri"] == "oob"


def test_a_shop_is_found_by_the_connection_or_by_the_operator(catalogue):
    shop = a_connection("shopify", {"shop": "acme"})
    assert asked(catalogue, shop).host == "acme.myshopify.com"
    with pytest.raises(ConfigurationError, match="shop is not set"):
        asked(catalogue, a_connection("shopify"))


SMUGGLED = ["evil.example/", "evil.example#", "a@evil.example", "evil.example?x=", "a\\b", "[::1]"]


@pytest.mark.parametrize("shop", SMUGGLED)
def test_an_option_cannot_smuggle_in_another_host(catalogue, shop):
    with pytest.raises(ConfigurationError):
        asked(catalogue, a_connection("shopify", {"shop": shop}))


def test_a_tenant_cannot_smuggle_in_another_path(catalogue):
    request = asked(catalogue, a_connection("waad", {"tenantId": "../../evil?x="}))
    assert urlsplit(request.url).path == "/..%2F..%2Fevil%3Fx%3D/oauth2/v2.0/token"


def test_a_header_cannot_start_another_one(catalogue):
    connection = a_connection("google-oauth2", headers={"X-A": "a\r\nX-B: b"})
    with pytest.raises(ConfigurationError, match="line break"):
        asked(catalogue, connection)


NOT_RENEWABLE = {
    "developer keys": (a_connection("google-oauth2", client_id=""), "developer keys"),
    "secret not known": (
        a_connection("google-oauth2", client_secret=None),
        "read:connections_options",
    ),
    "dpop": (
        a_connection(
            "oidc", {"token_endpoint": "https://a.example/t", "dpop_signing_alg": "ES256"}
        ),
        "Turn DPoP off",
    ),
    "dpop on okta": (a_connection("okta", {"dpop_signing_alg": "ES256"}), "Turn DPoP off"),
    "front channel": (a_connection("oidc", {"type": "front_channel"}), "Back Channel"),
    "auth0's key": (
        a_connection(
            "oidc",
            {
                "token_endpoint": "https://a.example/t",
                "token_endpoint_auth_method": "private_key_jwt",
            },
        ),
        "Register a second public key",
    ),
    "token vault": (
        a_connection("google-oauth2", {"connected_accounts": {"active": True}}),
        "Token Vault",
    ),
    "acs": (a_connection("sharepoint"), "ended on 2026-04-02"),
    "ws-federation": (a_connection("waad", {"waad_protocol": "ws-federation"}), "openid-connect"),
    "refresh tokens not stored": (
        a_connection("waad", {"tenantId": "t", "ext_refresh_token": False}),
        "ext_refresh_token",
    ),
    "no token endpoint": (a_connection("oauth2"), "token_url is not set"),
    "saml": (a_connection("samlp"), "no OAuth token"),
}


@pytest.mark.parametrize(("connection", "advice"), NOT_RENEWABLE.values(), ids=NOT_RENEWABLE)
def test_what_cannot_be_renewed_says_why_and_what_to_do(catalogue, connection, advice):
    reason = catalogue.resolve(connection, has_refresh_token=True).not_renewable
    assert reason is not None
    assert advice in reason


RENEWABLE = [
    a_connection("google-oauth2"),
    a_connection("waad", {"tenantId": "t", "ext_refresh_token": True, "use_wsfed": False}),
    a_connection("google-oauth2", {"connected_accounts": {"active": False}}),
    a_connection(
        "sharepoint", {"tokenURL": "https://login.microsoftonline.com/t/oauth2/v2.0/token"}
    ),
    a_connection("sharepoint", overrides={"dead_since": False, "fill": {"realm": "r"}}),
]


@pytest.mark.parametrize("connection", RENEWABLE)
def test_what_can_be_renewed_is_not_refused(catalogue, connection):
    assert catalogue.resolve(connection, has_refresh_token=True).not_renewable is None


def test_gitlab_is_told_the_redirect_uri_of_the_login():
    catalogue = load_catalogue(
        {}, allow_loopback=False, auth0_domains={"acme": "acme.eu.auth0.com"}
    )
    sent = form(asked(catalogue, a_connection("gitlab")))
    assert sent["redirect_uri"] == "https://acme.eu.auth0.com/login/callback"
