"""Our generic entry renews at servers we did not write, whichever way the client proves itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.counterparties.counterparty import Counterparty, Minted
from worker.domain.exchange import (
    Answered,
    ConnectionConfig,
    Outcome,
    Reading,
    Rotation,
    Verdict,
    WireRequest,
)
from worker.domain.secret import Secret
from worker.providers import HttpTokenEndpoint, load_catalogue
from worker.providers.provider import CatalogueProvider

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = (
    KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
PRIVATE = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


@dataclass(frozen=True)
class Ours:
    """A grant at a counterparty, and the entry that renews it."""

    server: Counterparty
    minted: Minted
    provider: CatalogueProvider
    connection: ConnectionConfig

    async def refresh(self, refresh_token: str | None = None) -> Reading:
        asked_at = datetime.now(UTC)
        subject = Secret(refresh_token or self.minted.refresh_token)
        answer = await send(
            self.provider.request(self.connection, subject=subject, scope=None, now=asked_at)
        )
        assert isinstance(answer, Answered), answer
        return self.provider.read(answer, asked_at=asked_at)

    async def revoke(self) -> str:
        request = self.provider.revocation(
            self.connection,
            access_token=Secret(self.minted.access_token),
            refresh_token=Secret(self.minted.refresh_token),
            now=datetime.now(UTC),
        )
        assert request is not None
        answer = await send(request)
        assert isinstance(answer, Answered), answer
        return str(self.provider.read_revocation(answer))


async def send(request: WireRequest) -> Outcome:
    endpoint = HttpTokenEndpoint(allow_loopback=True)
    try:
        return await endpoint.exchange(request, gate=lambda: True, read_timeout=10)
    finally:
        await endpoint.close()


def token_of(reading: Reading) -> str:
    assert reading.tokens is not None, reading
    assert reading.tokens.refresh_token is not None, reading
    return reading.tokens.refresh_token.text()


def ours(server: Counterparty, minted: Minted | None = None, **overrides: Any) -> Ours:
    """An Auth0 custom connection to `server`; `overrides` as in evergrant.toml."""
    minted = minted or server.mint()
    connection = ConnectionConfig(
        tenant="acme",
        name="other",
        id="con_other",
        strategy="oauth2",
        client_id=minted.client_id,
        client_secret=Secret(minted.client_secret),
        options={"tokenURL": server.token_url, "scope": ["read"]},
        headers={},
        overrides={"revoke": {"endpoint": f"{server.base_url}/revoke"}, **overrides},
        fetched_at=datetime.now(UTC),
        approved_host=None,
        stopped=None,
    )
    catalogue = load_catalogue({}, allow_loopback=True)
    provider = catalogue.resolve(connection, has_refresh_token=True)
    return Ours(server, minted, provider, connection)


Way = Callable[[Counterparty], Ours]
WAYS: dict[str, Way] = {
    "as it comes": ours,
    "post": lambda server: ours(server, client_auth="post"),
    "basic": lambda server: ours(server, client_auth="basic"),
}


def by_assertion(server: Counterparty) -> Ours:
    """private_key_jwt with a key of the operator's own (RFC 7523)."""
    minted = server.mint(auth_method="private_key_jwt", public_key=PUBLIC)
    return ours(server, minted, client_auth="private_key_jwt", private_key=PRIVATE)


@pytest.mark.parametrize("way", WAYS)
async def test_renewed_again_and_again(counterparty: Counterparty, way: str) -> None:
    grant = WAYS[way](counterparty)
    held = grant.minted.refresh_token
    for _ in range(3):
        reading = await grant.refresh(held)
        assert reading.verdict is Verdict.RENEWED, reading
        assert reading.tokens is not None
        assert counterparty.opens(reading.tokens.access_token.text())
        held = token_of(reading)


async def test_renewed_by_a_signed_assertion(authlib: Counterparty) -> None:
    grant = by_assertion(authlib)
    first = await grant.refresh()
    again = await grant.refresh(token_of(first))  # each assertion has a jti of its own
    assert again.verdict is Verdict.RENEWED


def test_a_server_nobody_knows_is_taken_for_the_strictest(counterparty: Counterparty) -> None:
    assert ours(counterparty).provider.rotation is Rotation.F


def test_what_the_operator_knows_is_believed(toolkit: Counterparty) -> None:
    provider = ours(toolkit, rotation="single_use_grace", rotation_grace="30s").provider
    assert (provider.rotation, provider.grace_seconds) == (Rotation.G, 30)


async def test_without_rotation_the_held_token_stays(counterparty: Counterparty) -> None:
    counterparty.configure(ROTATE_REFRESH_TOKEN=False, rotate=False)
    grant = ours(counterparty)
    for _ in range(2):
        reading = await grant.refresh()
        assert reading.verdict is Verdict.RENEWED
        assert reading.tokens is not None
        told = reading.tokens.refresh_token
        assert told is None or told.text() == grant.minted.refresh_token


async def test_in_the_grace_the_same_successor_comes_again(toolkit: Counterparty) -> None:
    toolkit.configure(REFRESH_TOKEN_GRACE_PERIOD_SECONDS=30)
    grant = ours(toolkit, rotation="single_use_grace", rotation_grace="30s")
    assert token_of(await grant.refresh()) == token_of(await grant.refresh())


async def test_a_spent_token_is_a_dead_grant(counterparty: Counterparty) -> None:
    grant = ours(counterparty)
    await grant.refresh()
    reading = await grant.refresh()
    assert (reading.verdict, reading.code) == (Verdict.GRANT_DEAD, "invalid_grant")


async def test_a_changed_secret_is_the_connections_fault(counterparty: Counterparty) -> None:
    minted = counterparty.mint()
    other = counterparty.mint()
    wrong = Minted(
        client_id=minted.client_id,
        client_secret=other.client_secret,
        access_token=minted.access_token,
        refresh_token=minted.refresh_token,
    )
    reading = await ours(counterparty, wrong).refresh()
    assert (reading.verdict, reading.code) == (Verdict.CONFIG_WRONG, "invalid_client")
    assert (await ours(counterparty, minted).refresh()).verdict is Verdict.RENEWED


async def test_the_wrong_way_to_prove_oneself_costs_no_token(authlib: Counterparty) -> None:
    minted = authlib.mint(auth_method="client_secret_basic")
    refused = await ours(authlib, minted, client_auth="post").refresh()
    assert refused.verdict is Verdict.CONFIG_WRONG
    assert (await ours(authlib, minted, client_auth="basic").refresh()).verdict is Verdict.RENEWED


@pytest.mark.parametrize("auth", ["client", "basic"])
async def test_given_back_by_rfc_7009(counterparty: Counterparty, auth: str) -> None:
    revoke = {"endpoint": f"{counterparty.base_url}/revoke", "auth": auth, "type_hint": True}
    grant = ours(counterparty, revoke=revoke)
    await grant.revoke()
    assert not counterparty.opens(grant.minted.access_token)
    assert (await grant.refresh()).verdict is Verdict.GRANT_DEAD
