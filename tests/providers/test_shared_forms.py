"""What all grants of a connection send alike is built once, and what is sent stays the same."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.exchange import ConnectionConfig, WireRequest
from worker.domain.secret import Secret
from worker.providers import asking, load_catalogue

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CATALOGUE = load_catalogue({}, allow_loopback=False)


def connection(**changes: object) -> ConnectionConfig:
    options = {"tokenURL": "https://idp.example/token", "scope": "a b"}
    told: dict[str, object] = {
        "tenant": "acme",
        "name": "idp",
        "id": None,
        "strategy": "oauth2",
        "client_id": "cli ent&id",
        "client_secret": Secret("s=cr&t ü"),
        "options": options,
        "headers": {"x-own": Secret("1")},
        "overrides": {},
        "fetched_at": NOW,
        "approved_host": "idp.example",
        "stopped": None,
    }
    return ConnectionConfig(**(told | changes))  # type: ignore[arg-type]


def fields(request: WireRequest) -> list[tuple[str, str]]:
    return parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True)


def built_alone(config: ConnectionConfig, token: Secret, scope: str | None) -> WireRequest:
    provider = CATALOGUE.entry("oauth2", config)
    return asking.refresh(
        provider.kind.entry, config, provider.around, subject=token, scope=scope, now=NOW
    )


@given(tokens=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2))
def test_each_token_is_sent_whole_in_an_otherwise_equal_request(tokens: list[str]) -> None:
    config = connection()
    provider = CATALOGUE.entry("oauth2", config)
    for token in map(Secret, tokens):
        asked = provider.request(config, subject=token, scope=None, now=NOW)
        alone = built_alone(config, token, None)
        assert (asked.method, asked.url, asked.host) == (alone.method, alone.url, alone.host)
        assert asked.headers == alone.headers
        assert fields(asked) == fields(alone)


def test_a_request_of_other_scopes_is_another() -> None:
    asks_for_scopes = {"oauth2": {"extra_params": {"scope": "{scope}"}}}
    config = connection()
    provider = load_catalogue(asks_for_scopes, allow_loopback=False).entry("oauth2", config)
    for scope in ("a", "a b", None, "a"):
        asked = provider.request(config, subject=Secret("r"), scope=scope, now=NOW)
        assert dict(fields(asked))["scope"] == (scope or "a b")


def test_no_two_signed_requests_are_alike() -> None:
    """A client assertion has a name of its own (RFC 7523 §3, `jti`)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signs = {
        "tokenURL": "https://idp.example/token",
        "token_endpoint_auth_method": "private_key_jwt",
    }
    config = connection(options=signs, overrides={"private_key": Secret(key)})
    provider = CATALOGUE.entry("oauth2", config)
    asked = [provider.request(config, subject=Secret("r"), scope=None, now=NOW) for _ in range(2)]
    first, second = (dict(fields(one))["client_assertion"] for one in asked)
    assert first != second


@pytest.mark.parametrize("field", ["headers", "url"])
def test_no_token_stays_in_what_is_kept(field: str) -> None:
    config = connection()
    provider = CATALOGUE.entry("oauth2", config)
    asked = provider.request(config, subject=Secret("the-token"), scope=None, now=NOW)
    assert "the-token" not in str(getattr(asked, field))
    assert "the-token" not in str(provider._forms)
