"""Keys with the verb `own`: an app gets a user's token only with that user's own Auth0 token."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from hashlib import sha256

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from worker.api import Subjects, Trust
from worker.api.subjects import HEADER

TOKEN = "/v1/acme/users/google-oauth2%7C104/tokens/google"
OTHERS = "/v1/acme/users/google-oauth2%7C105/tokens/google"
ISSUER, AUDIENCE = "https://acme.eu.auth0.com/", "https://api.acme.example"


@pytest.fixture(scope="module")
def signing_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def world(one_world, signing_key):
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(signing_key.public_key()))
    key_set = {"keys": [{**public, "kid": "k1", "use": "sig", "alg": "RS256"}]}
    one_world.fetched = []

    async def fetch(tenant):
        one_world.fetched.append(tenant)
        return key_set

    one_world.subjects = Subjects({"acme": Trust(issuer=ISSUER, audience=AUDIENCE)}, fetch)
    one_world.grants.add()
    one_world.grants.add(
        user_id="google-oauth2|105", identity_user_id="105", access_token="not-yours"
    )
    return one_world


def claims(**changed):
    now = int(time.time())
    told = {
        "iss": ISSUER,
        "aud": [AUDIENCE, f"{ISSUER}userinfo"],
        "sub": "google-oauth2|104",
        "iat": now,
        "exp": now + 600,
    }
    return {name: value for name, value in (told | changed).items() if value is not None}


def encoded(part):
    return urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


async def ask(world, proof, path=TOKEN, scope="read,own:acme"):
    key = world.key(scope, name=f"app-{time.monotonic_ns()}")
    headers = [] if proof is None else [(HEADER, proof)]
    async with world.http(key) as http:
        return await http.get(path, headers=httpx.Headers(headers))


async def test_with_the_users_own_token_his_token_is_served(world, signing_key):
    proof = jwt.encode(claims(), signing_key, algorithm="RS256", headers={"kid": "k1"})
    answer = await ask(world, proof)
    assert answer.json()["access_token"] == "at-0"


async def test_it_opens_nobody_elses(world, signing_key):
    proof = jwt.encode(claims(), signing_key, algorithm="RS256", headers={"kid": "k1"})
    answer = await ask(world, proof, OTHERS)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_it_widens_no_scope(world, signing_key):
    proof = jwt.encode(claims(), signing_key, algorithm="RS256", headers={"kid": "k1"})
    assert (await ask(world, proof, scope="read,own:acme/github")).status_code == 404
    assert (await ask(world, proof, scope="read,own:acme/*/auth0|*")).status_code == 404
    assert (await ask(world, proof, scope="status,own:acme")).status_code == 404


async def test_without_it_there_is_nothing(world):
    answer = await ask(world, None)
    assert (answer.status_code, answer.json()["code"]) == (401, "subject_missing")


async def test_a_key_that_is_not_bound_needs_none(world):
    assert (await ask(world, None, scope="read:acme")).status_code == 200


async def test_a_tenant_for_which_nobody_is_trusted(world, signing_key):
    proof = jwt.encode(claims(), signing_key, algorithm="RS256", headers={"kid": "k1"})
    other = TOKEN.replace("acme", "other")
    assert (await ask(world, proof, other, scope="read,own:*")).json()["code"] == "subject_refused"


WRONG = {
    "another audience": {"aud": "https://elsewhere.example"},
    "no audience": {"aud": None},
    "another issuer": {"iss": "https://acme.eu.auth0.com.evil.example/"},
    "expired": {"exp": int(time.time()) - 60},
    "no end": {"exp": None},
    "of the future": {"iat": int(time.time()) + 3600},
    "no subject": {"sub": None},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
async def test_a_token_that_was_meant_for_something_else(world, signing_key, changed):
    proof = jwt.encode(claims(**changed), signing_key, algorithm="RS256", headers={"kid": "k1"})
    assert (await ask(world, proof)).json()["code"] == "subject_refused"


def unsigned(_key):
    return f"{encoded({'alg': 'none', 'typ': 'JWT', 'kid': 'k1'})}.{encoded(claims())}."


def signed_with_the_public_key(key):
    """HS256 under the public key as its secret: a verifier that trusts `alg` takes it."""
    secret = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'k1'})}.{encoded(claims())}"
    mac = hmac.digest(secret, body.encode(), sha256)
    return f"{body}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def signed_by_another(_key):
    another = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return jwt.encode(claims(), another, algorithm="RS256", headers={"kid": "k1"})


def changed_afterwards(key):
    head, _, mac = jwt.encode(claims(), key, algorithm="RS256", headers={"kid": "k1"}).split(".")
    return f"{head}.{encoded(claims(sub='google-oauth2|105'))}.{mac}"


def of_an_unknown_key(key):
    return jwt.encode(claims(), key, algorithm="RS256", headers={"kid": "../k1"})


FORGERIES = [
    unsigned,
    signed_with_the_public_key,
    signed_by_another,
    changed_afterwards,
    of_an_unknown_key,
    lambda _key: "garbage",
    lambda _key: "a" * 20_000,
]


@pytest.mark.parametrize("forged", FORGERIES)
async def test_a_forgery(world, signing_key, forged):
    for path in (TOKEN, OTHERS):
        answer = await ask(world, forged(signing_key), path)
        assert (answer.status_code, answer.json()["code"]) == (401, "subject_refused")


async def test_unknown_keys_do_not_make_us_fetch_without_end(world, signing_key):
    for _ in range(5):
        await ask(world, of_an_unknown_key(signing_key))
    assert world.fetched == ["acme"]
