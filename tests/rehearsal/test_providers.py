"""Each rehearsed provider over HTTP, with the quirk it is known for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.rehearsal.conftest import HTTP, identity, refresh
from worker.rehearsal import ConnectionSpec, RunningStage, StageSettings, profiles, rehearsal


@pytest.fixture(scope="module")
def hall() -> Iterator[RunningStage]:
    """Every provider at once, behind a connection of its own name."""
    connections = [ConnectionSpec(name=name, profile=name) for name in profiles()]
    with rehearsal(StageSettings(connections=connections, lifetimes={"*": 90})) as stage:
        yield stage


_NUMBER = count()


def comes(hall: RunningStage, profile: str) -> str:
    """Somebody new logs in; returns the Auth0 user id, whose last part is the subject."""
    return hall.login(profile, f"user{next(_NUMBER)}")


def counts(hall: RunningStage, user_id: str) -> dict[str, Any]:
    """The ledger of that user's grant."""
    return hall.grants(subject=user_id.rpartition("|")[2])[0]


def ask(stage: RunningStage, profile: str, user_id: str, **changes: Any) -> httpx.Response:
    """Renew as the profile demands."""
    plays = profiles()[profile]
    options = stage.stage.tenant.connections[profile].options
    held = identity(stage, user_id)
    spends = held.access_token if plays.grant == "access_token" else held.refresh_token
    params = {plays.grant_param: plays.grant_name, plays.subject_param: spends}
    params |= dict.fromkeys(plays.needs, "x")
    auth = None
    if "basic" in plays.client_auth:
        auth = (options["client_id"], options["client_secret"])
    elif "secret_as_user" in plays.client_auth:
        auth = (options["client_secret"], "")
    elif "none" not in plays.client_auth:
        params |= {
            plays.client_id_param: options["client_id"],
            "client_secret": options["client_secret"],
        }
    place = {"form": "data", "json": "json", "query": "params"}[plays.params_in]
    return HTTP.request(
        plays.method,
        f"{stage.stage.provider_urls[profile]}/{plays.refresh_path}",
        auth=auth,
        headers={"Accept": "application/json"},
        **{place: params | changes},  # type: ignore[arg-type]  # one of httpx's three places
    )


RENEWABLE = sorted(
    name
    for name, one in profiles().items()
    if one.grant != "none" and "secret_jwt" not in one.client_auth and not one.not_before_s
)


@pytest.mark.parametrize("name", [n for n in RENEWABLE if profiles()[n].early_renewal_s is None])
def test_every_profile_renews_and_its_token_opens_its_api(hall: RunningStage, name: str) -> None:
    user_id = comes(hall, name)
    answer = ask(hall, name, user_id)
    assert answer.status_code == 200, answer.text
    url = f"{hall.stage.provider_urls[name]}/api/me"
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert HTTP.get(url, headers=bearer).json()["id"] in user_id
    assert (counts(hall, user_id)["exchanges"], counts(hall, user_id)["reads"]) == (1, 1)


@pytest.mark.parametrize("name", RENEWABLE)
def test_every_profile_refuses_a_withdrawn_grant_in_its_own_words(
    hall: RunningStage, name: str
) -> None:
    user_id = comes(hall, name)
    hall.do("withdraw_consent", provider=name, subject=user_id.rpartition("|")[2])
    answer = ask(hall, name, user_id)
    dead = profiles()[name].errors["dead"]
    assert (answer.status_code, answer.json()) == (dead["status"], dead["body"])


@pytest.mark.parametrize("name", [n for n in RENEWABLE if profiles()[n].client_auth != ("none",)])
def test_every_profile_refuses_a_client_it_does_not_know(
    hall: RunningStage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = comes(hall, name)
    options = hall.stage.tenant.connections[name].options
    monkeypatch.setitem(options, "client_secret", "changed by an admin")
    answer = ask(hall, name, user_id)
    wrong = profiles()[name].errors["wrong_client"]
    assert (answer.status_code, answer.json()) == (wrong["status"], wrong["body"])
    assert counts(hall, user_id)["wrong_client"] == 1


QUIRKS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    # a refresh answer has no refresh_token (developers.google.com/identity/protocols/oauth2)
    "google-oauth2": ("absent", {"refresh_token": None}),
    "spotify": ("absent", {"refresh_token": None}),  # aome510/spotify-player#1041
    # numbers as strings (OneDrive/onedrive-api-docs aad-oauth.md; golang/oauth2 token.go)
    "waad-v1": ("present", {"expires_in": "90"}),
    "paypal": ("present", {"expires_in": "90"}),
    # no expiry at all (makenotion/notion-sdk-js oauth.ts; help.salesforce.com)
    "notion": ("absent", {"expires_in": None}),
    "salesforce": ("absent", {"expires_in": None}),
    # `scopes` before 2026-05-04 (community.developer.atlassian.com/t/99003)
    "bitbucket-old": ("present", {"scopes": "account repository"}),
    "slack": ("present", {"ok": True, "token_type": "user"}),  # docs.slack.dev token rotation
    "github-app": ("present", {"scope": "", "refresh_token_expires_in": 15811200}),
    "facebook": ("absent", {"refresh_token": None}),
}


@pytest.mark.parametrize("name", QUIRKS)
def test_answers_have_the_providers_own_shape(hall: RunningStage, name: str) -> None:
    user_id = comes(hall, name)
    body = ask(hall, name, user_id).json()
    kind, expected = QUIRKS[name]
    if kind == "absent":
        assert not set(expected) & set(body)
    else:
        assert {key: body[key] for key in expected} == expected


def test_bitbucket_tokens_are_longer_than_2500_characters(hall: RunningStage) -> None:
    """git-ecosystem/git-credential-manager#2433"""
    user_id = comes(hall, "bitbucket")
    body = ask(hall, "bitbucket", user_id).json()
    assert len(body["access_token"]) > 2500
    assert len(body["refresh_token"]) > 2500


def test_github_answers_as_a_form_unless_asked_for_json(hall: RunningStage) -> None:
    """docs.github.com/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps"""
    user_id = comes(hall, "github-app")
    options = hall.stage.tenant.connections["github-app"].options
    answer = HTTP.post(
        f"{hall.stage.provider_urls['github-app']}/token",
        data={
            "grant_type": "refresh_token",
            "refresh_token": identity(hall, user_id).refresh_token,
            "client_id": options["client_id"],
            "client_secret": options["client_secret"],
        },
    )
    assert answer.headers["content-type"] == "application/x-www-form-urlencoded"
    assert answer.text.startswith("access_token=ghu_")


def test_an_oauth_app_of_github_has_nothing_to_renew(hall: RunningStage) -> None:
    user_id = comes(hall, "github")
    held = identity(hall, user_id)
    assert held.access_token.startswith("gho_")
    assert held.refresh_token is None
    assert held.expires_in is None


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("waad", {"resource": "https://graph.microsoft.com"}),  # AADSTS901002
        ("waad", {"scope": ""}),
        ("waad-v1", {"resource": ""}),
        ("box", {"grant_type": "password"}),
        ("box", {"refresh_token": ""}),
    ],
)
def test_a_malformed_request_is_told_so(
    hall: RunningStage, name: str, changes: dict[str, str]
) -> None:
    user_id = comes(hall, name)
    answer = ask(hall, name, user_id, **changes)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_json_is_not_a_form(stage: RunningStage) -> None:
    """discord/discord-api-docs oauth2.mdx says it of many: only form bodies."""
    user_id = stage.login("acme-okta", "rosa")
    options = stage.stage.tenant.connections["acme-okta"].options
    body = {"grant_type": "refresh_token", "refresh_token": identity(stage, user_id).refresh_token}
    auth = (options["client_id"], options["client_secret"])
    answer = HTTP.post(options["token_endpoint"], json=body, auth=auth)
    assert answer.status_code == 400


def test_credentials_in_two_places_are_refused(stage: RunningStage) -> None:
    """RFC 6749 section 2.3: one way per request."""
    user_id = stage.login("acme-okta", "rosa")
    token = identity(stage, user_id).refresh_token
    assert refresh(stage, "acme-okta", token, client_secret="x").status_code == 401
    assert refresh(stage, "acme-okta", token).status_code == 200


def test_apple_wants_a_signed_secret(hall: RunningStage) -> None:
    """developer.apple.com, generate-and-validate-tokens: client_secret is an ES256 JWT."""
    user_id = comes(hall, "apple")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    client_id = hall.stage.tenant.connections["apple"].options["client_id"]
    hall.stage.providers["apple"].register_key(client_id, pem.decode())
    claims = {"iss": "TEAM", "sub": client_id, "exp": time.time() + 60}
    signed = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "K"})
    assert ask(hall, "apple", user_id, client_secret=signed).status_code == 200
    assert ask(hall, "apple", user_id, client_secret=signed[:-4] + "AAAA").status_code == 400


@pytest.mark.parametrize(
    ("name", "method", "path", "place"),
    [
        ("google-oauth2", "POST", "revoke", {"data": {"token": "{refresh}"}}),
        ("slack", "POST", "auth.revoke", {"headers": {"Authorization": "Bearer {access}"}}),
        (
            "dropbox",
            "POST",
            "2/auth/token/revoke",
            {"headers": {"Authorization": "Bearer {access}"}},
        ),
        ("facebook", "DELETE", "me/permissions", {"params": {"access_token": "{access}"}}),
    ],
)
def test_revocation_as_each_provider_has_it(
    hall: RunningStage, name: str, method: str, path: str, place: dict[str, dict[str, str]]
) -> None:
    """Google and Dropbox developer pages; docs.slack.dev; social-core facebook.py"""
    user_id = comes(hall, name)
    held = identity(hall, user_id)
    filled = {
        where: {
            key: value.format(access=held.access_token, refresh=held.refresh_token)
            for key, value in values.items()
        }
        for where, values in place.items()
    }
    url = f"{hall.stage.provider_urls[name]}/{path}"
    answer = HTTP.request(method, url, **filled)  # type: ignore[arg-type]
    assert answer.status_code == 200
    me = f"{hall.stage.provider_urls[name]}/api/me"
    opened = HTTP.get(me, headers={"Authorization": f"Bearer {held.access_token}"})
    assert opened.json() == profiles()[name].errors["unauthorized"]["body"]
    if profiles()[name].revoke["effect"] != "token":
        assert ask(hall, name, user_id).json() == profiles()[name].errors["dead"]["body"]
    assert counts(hall, user_id)["revoked_by_us"] == 1


def test_there_is_no_revocation_where_the_provider_has_none(hall: RunningStage) -> None:
    """Bitbucket, Microsoft: nothing to call."""
    user_id = comes(hall, "bitbucket")
    url = f"{hall.stage.provider_urls['bitbucket']}/revoke"
    data = {"token": identity(hall, user_id).refresh_token}
    assert HTTP.post(url, data=data).status_code == 404


def test_introspection_tells_the_expiry_that_the_answer_does_not(hall: RunningStage) -> None:
    """Salesforce: POST …/introspect, field exp."""
    user_id = comes(hall, "salesforce")
    access = ask(hall, "salesforce", user_id).json()["access_token"]
    url = f"{hall.stage.provider_urls['salesforce']}/introspect"
    body = HTTP.post(url, data={"token": access}).json()
    assert body["active"] is True
    assert 80 < body["exp"] - time.time() <= 90
    assert HTTP.post(url, data={"token": "x"}).json() == {"active": False}


def test_each_provider_is_a_host_of_its_own(stage: RunningStage) -> None:
    """A client paces and blocks hosts: one bad provider must not look like all of them."""
    hosts = {url.split("/")[2] for url in stage.about()["providers"].values()}
    assert len(hosts) == len(stage.about()["providers"])
