"""Keys with the verb `own`: an app gets a user's token only with that user's own Auth0 token."""

import asyncio
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

from worker.api import Subjects, Trust, subjects
from worker.api.subjects import HEADER
from worker.domain.errors import TransientError

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


async def test_many_at_once_with_unknown_keys_are_one_look(world, signing_key):
    proof = of_an_unknown_key(signing_key)
    slow = asyncio.Event()
    fetch = world.subjects._fetch

    async def slowly(tenant):
        found = await fetch(tenant)
        await slow.wait()
        return found

    world.subjects._fetch = slowly
    asked = [asyncio.create_task(ask(world, proof)) for _ in range(20)]
    await asyncio.sleep(0.05)
    slow.set()
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {401}
    assert world.fetched == ["acme"]


async def test_while_no_key_set_is_to_be_had_it_is_not_asked_for_at_each_request(
    world, signing_key
):
    proof = jwt.encode(claims(), signing_key, algorithm="RS256", headers={"kid": "k1"})
    fetch, tried = world.subjects._fetch, []

    async def away(tenant):
        tried.append(tenant)
        raise TransientError("acme: key set: ConnectError", code="no_key_set")

    world.subjects._fetch = away
    answers = [await ask(world, proof) for _ in range(5)]
    assert {(a.status_code, a.json()["code"]) for a in answers} == {(503, "no_key_set")}
    assert 1 <= int(answers[-1].headers["retry-after"]) <= subjects.PAUSE
    assert tried == ["acme"]
    world.subjects._fetch = fetch
    world.subjects._failed.clear()  # the pause is over
    assert (await ask(world, proof)).status_code == 200


async def test_a_key_that_cannot_be_read_takes_nothing_from_the_others(world, signing_key):
    proof = jwt.encode(claims(), signing_key, algorithm="RS256", headers={"kid": "k1"})
    found = await world.subjects._fetch("acme")
    found["keys"].insert(0, {"kty": "RSA", "kid": "k0", "use": "sig", "n": "?", "e": None})
    assert (await ask(world, proof)).status_code == 200
