"""The rehearsed Management API answers, and refuses, as Auth0 does."""

from __future__ import annotations

import time
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.rehearsal.conftest import HTTP, Start, api, management_token
from worker.rehearsal import RunningStage


def test_a_user_is_read_by_its_encoded_id_with_tokens(stage: RunningStage) -> None:
    user_id = stage.login("google-oauth2", "rosa")
    with api(stage) as http:
        user = http.get(f"/users/{quote(user_id, safe='')}").json()
    identity = user["identities"][0]
    assert user["user_id"] == "google-oauth2|rosa"
    assert identity["connection"] == identity["provider"] == "google-oauth2"
    assert identity["access_token"].startswith("ya29.")
    assert identity["refresh_token"].startswith("1//")
    assert identity["expires_in"] == 60


def test_without_read_user_idp_tokens_the_tokens_are_simply_missing(start: Start) -> None:
    """https://auth0.com/docs/authenticate/identity-providers/calling-an-external-idp-api"""
    stage = start(scopes="read:users")
    user_id = stage.login("google-oauth2", "rosa")
    with api(stage) as http:
        answer = http.get(f"/users/{quote(user_id, safe='')}")
    assert answer.status_code == 200
    assert "access_token" not in answer.json()["identities"][0]
    assert "refresh_token" not in answer.json()["identities"][0]


def test_without_read_connections_options_the_options_are_absent(start: Start) -> None:
    """End of life of the old behaviour: 2025-07-08."""
    stage = start(scopes="read:connections")
    with api(stage) as http:
        found = http.get("/connections", params={"name": "acme-entra"}).json()
        by_id = http.get(f"/connections/{found[0]['id']}").json()
    assert [one["name"] for one in found] == ["acme-entra"]
    assert "options" not in found[0]
    assert "options" not in by_id


def test_fields_choose_and_exclude(stage: RunningStage) -> None:
    user_id = quote(stage.login("github", "rosa"), safe="")
    with api(stage) as http:
        chosen = http.get(f"/users/{user_id}", params={"fields": "user_id,updated_at"}).json()
        rest = http.get(
            f"/users/{user_id}", params={"fields": "identities", "include_fields": "false"}
        ).json()
    assert set(chosen) == {"user_id", "updated_at"}
    assert "identities" not in rest
    assert rest["user_id"] == "github|rosa"


def test_checkpoint_paging_of_connections_ends_without_next(stage: RunningStage) -> None:
    names: list[str] = []
    with api(stage) as http:
        body = http.get("/connections", params={"take": 4}).json()
        while True:
            names += [one["name"] for one in body["connections"]]
            if "next" not in body:
                break
            body = http.get("/connections", params={"take": 4, "from": body["next"]}).json()
    assert sorted(names) == sorted(stage.about()["connections"])


def test_connections_are_found_by_strategy(stage: RunningStage) -> None:
    with api(stage) as http:
        found = http.get("/connections", params={"strategy": ["waad", "okta"]}).json()
    assert sorted(one["name"] for one in found) == ["acme-entra", "acme-okta"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/users/google-oauth2%7Cnobody", 404, "inexistent_user"),
        ("/connections/con_nobody", 404, "inexistent_connection"),
        ("/users?page=20&per_page=50", 400, "invalid_paging"),
        ("/users?per_page=101", 400, "invalid_query_string"),
    ],
)
def test_refusals_have_the_form_of_the_recordings(
    stage: RunningStage, path: str, status: int, code: str
) -> None:
    with api(stage) as http:
        body = http.get(path).json()
    assert body["statusCode"] == status
    assert body["errorCode"] == code
    assert set(body) == {"statusCode", "error", "message", "errorCode"}


def test_a_missing_scope_is_named(start: Start) -> None:
    stage = start(scopes="read:connections")
    with api(stage) as http:
        body = http.get("/users/x").json()
    assert body == {
        "statusCode": 403,
        "error": "Forbidden",
        "message": "Insufficient scope, expected any of: read:users",
        "errorCode": "insufficient_scope",
    }


def test_an_expired_token_is_401_without_an_error_code(start: Start) -> None:
    stage = start(token_lifetime_s=0)
    with api(stage) as http:
        answer = http.get("/users/x")
    message = "Expired token received for JSON Web Token validation"
    assert answer.status_code == 401
    assert answer.json() == {
        "statusCode": 401,
        "error": "Unauthorized",
        "message": message,
        "attributes": {"error": message},
    }


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "access_denied"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"audience": "https://rehearsal.auth0.test/api/v2"}, 403, "access_denied"),
        ({"grant_type": "password"}, 403, "unauthorized_client"),
    ],
)
def test_the_token_endpoint_refuses_in_oauth_form(
    stage: RunningStage, changes: dict[str, str], status: int, error: str
) -> None:
    """The audience is an identifier: without its trailing slash it is another one."""
    answer = management_token(stage, **changes)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert "error_description" in answer.json()


def test_client_credentials_may_come_as_json(stage: RunningStage) -> None:
    settings = stage.stage.settings
    answer = HTTP.post(
        f"{stage.base_url}/oauth/token",
        json={
            "grant_type": "client_credentials",
            "client_id": settings.client_id,
            "client_secret": settings.client_secret,
            "audience": f"https://{settings.domain}/api/v2/",
        },
    )
    assert answer.json()["expires_in"] == 86_400
    assert "read:user_idp_tokens" in answer.json()["scope"]


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _assertion(key: rsa.RSAPrivateKey, **changes: object) -> str:
    now = int(time.time())
    client = "evergrantRehearsal0000000000001"
    claims = {
        "iss": client,
        "sub": client,
        "aud": "https://rehearsal.auth0.test/",
        "jti": "one",
        "iat": now,
        "exp": now + 60,
    } | changes
    return jwt.encode(claims, key, algorithm="RS256")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"aud": "https://rehearsal.auth0.test"}, 401),  # the slash is part of it
        ({"sub": "someone"}, 401),
        ({"exp": 1}, 401),
        ({"exp": 99_999_999_999}, 401),  # five minutes ahead at most
    ],
)
def test_private_key_jwt_is_checked(
    start: Start, key: rsa.RSAPrivateKey, changes: dict[str, object], status: int
) -> None:
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    stage = start(public_key=pem.decode())
    form = {
        "client_assertion": _assertion(key, **changes),
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }
    assert management_token(stage, **form).status_code == status
    assert management_token(stage, **form).status_code == 401  # a jti is used once
    assert management_token(stage).status_code == 401  # and the secret no more


def test_the_plan_limits_and_says_when_more_comes(start: Start) -> None:
    """Essentials: 5 connection reads at once, 50 a minute; other groups are counted apart."""
    stage = start(plan="essentials")
    with api(stage) as http:
        answers = [http.get("/connections") for _ in range(6)]
        users = http.get("/users")
    assert [one.status_code for one in answers] == [200] * 5 + [429]
    assert answers[0].headers["x-ratelimit-limit"] == "5"
    assert answers[0].headers["x-ratelimit-remaining"] == "4"
    assert 0 <= int(answers[5].headers["x-ratelimit-reset"]) - time.time() <= 3
    assert answers[5].json()["statusCode"] == 429
    assert users.status_code == 200
    assert stage.ledger()["management_refused"] == 1


def test_a_global_limit_says_so(start: Start) -> None:
    stage = start(plan="free")
    with api(stage) as http:
        bodies = [http.get("/users").json() for _ in range(3)]
    assert bodies[2] == {
        "statusCode": 429,
        "error": "Too Many Requests",
        "message": "Global limit has been reached",
        "errorCode": "too_many_requests",
    }


def test_users_can_be_partitioned_by_creation(stage: RunningStage) -> None:
    stage.do("logins", connection="github", subjects=[f"user{n}" for n in range(7)])
    with api(stage) as http:
        users = http.get("/users", params={"sort": "created_at:1"}).json()
        middle = users[3]["created_at"]
        early = http.get("/users", params={"q": f"created_at:[* TO {middle}}}"}).json()
        late = http.get("/users", params={"q": f"created_at:[{middle} TO *]"}).json()
        nobody = http.get("/users", params={"q": "created_at:???["}).json()
    assert {one["user_id"] for one in early} | {one["user_id"] for one in late} == {
        one["user_id"] for one in users
    }
    assert not {one["user_id"] for one in early} & {one["user_id"] for one in late}
    assert nobody == []


def test_the_log_is_followed_by_checkpoint(stage: RunningStage) -> None:
    stage.do("logins", connection="github", subjects=[f"user{n}" for n in range(5)])
    seen: list[str] = []
    with api(stage) as http:
        answer = http.get("/logs", params={"take": 3})
        while found := answer.json():
            seen += [record["log_id"] for record in found]
            assert 'rel="next"' in answer.headers["link"]
            answer = http.get("/logs", params={"from": seen[-1], "take": 3})
    assert seen == sorted(set(seen))
    assert len(seen) >= 10  # a sign-up and a login each


def test_a_read_that_returned_a_secret_is_an_event_of_our_own(stage: RunningStage) -> None:
    user_id = quote(stage.login("github", "rosa"), safe="")
    with api(stage) as http:
        http.get(f"/users/{user_id}")
        newest = http.get("/logs", params={"per_page": 1}).json()[0]
    assert newest["type"] == "mgmt_api_read"
    assert newest["user_id"] == f"{stage.stage.settings.client_id}@clients"
    assert newest["details"]["request"]["path"] == f"/api/v2/users/{user_id}"


def test_the_signing_key_is_published(stage: RunningStage) -> None:
    token = management_token(stage).json()["access_token"]
    keys = HTTP.get(f"{stage.base_url}/.well-known/jwks.json").json()
    key = jwt.PyJWKSet.from_dict(keys)["rehearsal"]
    claims = jwt.decode(
        token, key, algorithms=["RS256"], audience="https://rehearsal.auth0.test/api/v2/"
    )
    assert claims["sub"] == "evergrantRehearsal0000000000001@clients"
