"""The counterparties do what their libraries promise: the ground our own tests stand on."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.counterparties.counterparty import HTTP, Counterparty


@pytest.mark.parametrize("way", ["basic", "post"])
def test_a_refresh_token_is_renewed(counterparty: Counterparty, way: str) -> None:
    grant = counterparty.mint()
    proof: dict[str, Any] = {"basic": grant.basic} if way == "basic" else grant.post
    answer = counterparty.refresh(grant.refresh_token, **proof)
    body = answer.json()
    assert answer.status_code == 200, body
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 60
    assert body["refresh_token"] != grant.refresh_token
    assert counterparty.opens(body["access_token"])


def test_a_wrong_secret_is_invalid_client(counterparty: Counterparty) -> None:
    grant = counterparty.mint()
    answer = counterparty.refresh(grant.refresh_token, basic=(grant.client_id, "wrong"))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_an_unknown_token_is_invalid_grant(counterparty: Counterparty) -> None:
    grant = counterparty.mint()
    answer = counterparty.refresh("nonsense", basic=grant.basic)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_revocation_ends_the_grant(counterparty: Counterparty) -> None:
    grant = counterparty.mint()
    form = {"token": grant.refresh_token, "token_type_hint": "refresh_token"}
    answer = HTTP.post(f"{counterparty.base_url}/revoke", data=form, auth=grant.basic)
    assert answer.status_code == 200
    again = counterparty.refresh(grant.refresh_token, basic=grant.basic)
    assert again.json()["error"] == "invalid_grant"


# ---------------------------------------------------------------- django-oauth-toolkit


def test_without_rotation_the_toolkit_keeps_the_refresh_token(toolkit: Counterparty) -> None:
    toolkit.configure(ROTATE_REFRESH_TOKEN=False)
    grant = toolkit.mint()
    first = toolkit.refresh(grant.refresh_token, basic=grant.basic).json()
    second = toolkit.refresh(grant.refresh_token, basic=grant.basic).json()
    assert first["refresh_token"] == second["refresh_token"] == grant.refresh_token
    assert first["access_token"] != second["access_token"]


def test_with_rotation_a_spent_token_is_refused_and_the_family_lives(toolkit: Counterparty) -> None:
    grant = toolkit.mint()
    first = toolkit.refresh(grant.refresh_token, basic=grant.basic).json()
    reused = toolkit.refresh(grant.refresh_token, basic=grant.basic)
    assert reused.json()["error"] == "invalid_grant"
    assert toolkit.refresh(first["refresh_token"], basic=grant.basic).status_code == 200


def test_in_the_grace_the_toolkit_answers_a_spent_token(toolkit: Counterparty) -> None:
    toolkit.configure(REFRESH_TOKEN_GRACE_PERIOD_SECONDS=30)
    grant = toolkit.mint()
    first = toolkit.refresh(grant.refresh_token, basic=grant.basic).json()
    again = toolkit.refresh(grant.refresh_token, basic=grant.basic).json()
    assert again["refresh_token"] == first["refresh_token"]  # variant "same"


def test_with_reuse_protection_the_family_dies(toolkit: Counterparty) -> None:
    toolkit.configure(REFRESH_TOKEN_REUSE_PROTECTION=True)
    grant = toolkit.mint()
    first = toolkit.refresh(grant.refresh_token, basic=grant.basic).json()
    toolkit.refresh(grant.refresh_token, basic=grant.basic)
    after = toolkit.refresh(first["refresh_token"], basic=grant.basic)
    assert after.json()["error"] == "invalid_grant"
    assert not toolkit.opens(first["access_token"])


# ---------------------------------------------------------------- Authlib


def test_authlib_can_end_the_family_on_reuse(authlib: Counterparty) -> None:
    authlib.configure(reuse_revokes=True)
    grant = authlib.mint()
    first = authlib.refresh(grant.refresh_token, basic=grant.basic).json()
    authlib.refresh(grant.refresh_token, basic=grant.basic)
    after = authlib.refresh(first["refresh_token"], basic=grant.basic)
    assert after.json()["error"] == "invalid_grant"


def test_authlib_answers_without_a_refresh_token_when_it_does_not_rotate(
    authlib: Counterparty,
) -> None:
    authlib.configure(rotate=False)
    grant = authlib.mint()
    for _ in range(2):
        body = authlib.refresh(grant.refresh_token, basic=grant.basic).json()
        assert "refresh_token" not in body


def test_authlib_takes_private_key_jwt(authlib: Counterparty) -> None:
    """RFC 7523 section 3; one assertion is taken once."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    grant = authlib.mint(auth_method="private_key_jwt", public_key=pem.decode())
    claims = {
        "iss": grant.client_id,
        "sub": grant.client_id,
        "aud": authlib.token_url,
        "exp": time.time() + 60,
        "jti": "one",
    }
    proof: dict[str, Any] = {
        "client_assertion": jwt.encode(claims, key, algorithm="RS256"),
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }
    first = authlib.refresh(grant.refresh_token, **proof)
    assert first.status_code == 200, first.text
    again = authlib.refresh(first.json()["refresh_token"], **proof)
    assert again.json()["error"] == "invalid_client"
    by_secret = authlib.refresh(first.json()["refresh_token"], basic=grant.basic)
    assert by_secret.json()["error"] == "invalid_client"
