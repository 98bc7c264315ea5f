"""Every entry of the catalogue that the stage can play, played: the same scenes for each.

A new profile brings its tests by itself. What is compared is our reading of the provider with the
provider's behaviour as its own sources have it, written down twice and apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.rehearsal.conftest import HTTP, identity
from tests.rehearsal.test_providers import comes, counts
from worker.domain.exchange import (
    Answered,
    ConnectionConfig,
    NotSent,
    Outcome,
    Reading,
    Rotation,
    Uncertain,
    Verdict,
    WireRequest,
)
from worker.domain.secret import Secret
from worker.providers import Catalogue, HttpTokenEndpoint, load_catalogue
from worker.providers.provider import CatalogueProvider
from worker.rehearsal import (
    ConnectionSpec,
    RunningStage,
    StageSettings,
    config_of,
    profiles,
    rehearsal,
)

PLAYED = sorted(name for name, one in profiles().items() if one.grant != "none")
LIFETIME = 90  # seconds


@pytest.fixture(scope="module")
def hall() -> Iterator[RunningStage]:
    """Every provider at once, behind a connection of its own name."""
    connections = [ConnectionSpec(name=name, profile=name) for name in profiles()]
    settings = StageSettings(connections=connections, lifetimes={"*": LIFETIME})
    with rehearsal(settings) as stage:
        yield stage


@dataclass(frozen=True)
class Conversation:
    """One user's grant at one provider, and our side of it."""

    hall: RunningStage
    provider: CatalogueProvider
    connection: ConnectionConfig
    user_id: str

    @property
    def held(self) -> Any:
        return identity(self.hall, self.user_id)

    async def refresh(self, token: str | None = None) -> Reading | NotSent | Uncertain:
        """Spend what the grant spends, as the engine would."""
        own = self.held.access_token if self.provider.spends == "at" else self.held.refresh_token
        asked_at = datetime.now(UTC)
        request = self.provider.request(
            self.connection, subject=Secret(token or own), scope=None, now=asked_at
        )
        outcome = await self._send(request)
        if isinstance(outcome, Answered):
            return self.provider.read(outcome, asked_at=asked_at)
        return outcome

    async def revoke(self) -> bool:
        """Give the consent back; False when the provider offers no way."""
        request = self.provider.revocation(
            self.connection,
            access_token=Secret(self.held.access_token),
            refresh_token=Secret(self.held.refresh_token) if self.held.refresh_token else None,
            now=datetime.now(UTC),
        )
        return request is not None and isinstance(await self._send(request), Answered)

    def opens(self, token: Secret) -> bool:
        url = f"{self.hall.stage.provider_urls[self.connection.name]}/api/me"
        answer = HTTP.get(url, headers={"Authorization": f"Bearer {token.text()}"})
        return answer.status_code == 200 and "id" in answer.json()

    async def _send(self, request: WireRequest) -> Outcome:
        endpoint = HttpTokenEndpoint(allow_loopback=True)
        try:
            return await endpoint.exchange(request, gate=lambda: True, read_timeout=5)
        finally:
            await endpoint.close()


Converse = Callable[[str], Conversation]


@pytest.fixture(scope="module")
def catalogue(hall: RunningStage) -> Catalogue:
    """The shipped one, its addresses moved to the stage as the written configuration does."""
    return load_catalogue(
        config_of(hall.stage)["providers"],
        allow_loopback=True,
        auth0_domains={"rehearsal": hall.stage.settings.domain},
    )


@pytest.fixture
def converse(hall: RunningStage, catalogue: Catalogue) -> Converse:
    overrides = config_of(hall.stage)["tenants"]["rehearsal"]["connections"]

    def begin(name: str) -> Conversation:
        connection = _connection(hall, name, overrides.get(name, {}))
        user_id = comes(hall, name)
        entry = hall.stage.providers[name].profile.entry or name
        provider = catalogue.entry(entry, connection)
        return Conversation(hall, provider, connection, user_id)

    return begin


_APPLE_KEY = ec.generate_private_key(ec.SECP256R1())


def _connection(hall: RunningStage, name: str, overrides: dict[str, Any]) -> ConnectionConfig:
    """As the puller would read it from the Management API."""
    found = hall.stage.tenant.connections[name]
    options = dict(found.options)
    client_id, secret = options.pop("client_id"), options.pop("client_secret")
    custom = options.pop("customHeaders", {})
    if name == "apple":
        options |= {"team_id": "TEAM", "kid": "KEY"}
        secret = _apple_secret(hall, client_id)
    return ConnectionConfig(
        tenant="rehearsal",
        name=name,
        id=found.id,
        strategy=found.strategy,
        client_id=client_id,
        client_secret=Secret(secret),
        options=options,
        headers={key: Secret(value) for key, value in custom.items()},
        overrides=overrides,
        fetched_at=datetime.now(UTC),
        approved_host=None,
        stopped=None,
    )


def _apple_secret(hall: RunningStage, client_id: str) -> str:
    public = _APPLE_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    hall.stage.providers["apple"].register_key(client_id, public.decode())
    return _pem(_APPLE_KEY)


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


# ---------------------------------------------------------------- the scenes

RENEWABLE_NOW = [
    name
    for name in PLAYED
    if profiles()[name].early_renewal_s is None and not profiles()[name].not_before_s
]


@pytest.mark.parametrize("name", RENEWABLE_NOW)
async def test_a_grant_is_renewed(converse: Converse, name: str) -> None:
    grant = converse(name)
    reading = await grant.refresh()
    assert isinstance(reading, Reading)
    assert reading.verdict is Verdict.RENEWED, reading
    assert reading.tokens is not None
    assert grant.opens(reading.tokens.access_token)


@pytest.mark.parametrize("name", RENEWABLE_NOW)
async def test_what_comes_back_can_be_spent_next(converse: Converse, name: str) -> None:
    """A new refresh token replaces, an absent one keeps."""
    grant = converse(name)
    held = None
    for _ in range(3):
        reading = await grant.refresh(held)
        assert isinstance(reading, Reading)
        assert reading.tokens is not None, reading
        if grant.provider.spends == "at":
            held = reading.tokens.access_token.text()
        elif reading.tokens.refresh_token:
            held = reading.tokens.refresh_token.text()
    assert counts(grant.hall, grant.user_id)["exchanges"] == 3
    assert counts(grant.hall, grant.user_id)["reused"] == 0


@pytest.mark.parametrize("name", PLAYED)
async def test_a_dead_grant_is_dead(converse: Converse, name: str) -> None:
    grant = converse(name)
    grant.hall.do("withdraw_consent", provider=name, subject=grant.held.user_id)
    reading = await grant.refresh()
    assert isinstance(reading, Reading)
    assert reading.verdict is Verdict.GRANT_DEAD, reading


# Meta answers a wrong secret with code 1, its word for any trouble of its own; only the text
# would tell, and texts are not read. Waiting costs no grant.
NOT_TOLD = {"facebook": Verdict.TRANSIENT}


@pytest.mark.parametrize("name", [n for n in PLAYED if profiles()[n].client_auth != ("none",)])
async def test_a_wrong_client_is_the_connections_fault(converse: Converse, name: str) -> None:
    grant = converse(name)
    secret = _pem(ec.generate_private_key(ec.SECP256R1())) if name == "apple" else "changed"
    wrong = replace(grant.connection, client_secret=Secret(secret))
    reading = await replace(grant, connection=wrong).refresh()
    assert isinstance(reading, Reading)
    assert reading.verdict is NOT_TOLD.get(name, Verdict.CONFIG_WRONG), reading
    assert counts(grant.hall, grant.user_id)["wrong_client"] == 1


@pytest.mark.parametrize("fault", ["rate_limited", "unavailable", "html_502", "html_200"])
@pytest.mark.parametrize("name", PLAYED)
async def test_a_providers_trouble_is_nobodys_fault(
    converse: Converse, name: str, fault: str
) -> None:
    grant = converse(name)
    grant.hall.do("faults", provider=name, profile=fault, count=1)
    reading = await grant.refresh()
    assert isinstance(reading, Reading)
    assert reading.verdict is Verdict.TRANSIENT, reading


@pytest.mark.parametrize("name", PLAYED)
def test_the_class_is_never_laxer_than_the_provider(converse: Converse, name: str) -> None:
    """Too strict costs patience; too lax costs grants."""
    plays, provider = profiles()[name], converse(name).provider
    allowed = {
        "none": {Rotation.N, Rotation.M, Rotation.G, Rotation.S, Rotation.F},
        "sliding": {Rotation.M, Rotation.G, Rotation.S, Rotation.F},
        "single_use_grace": {Rotation.G, Rotation.S, Rotation.F},
        "single_use": {Rotation.S, Rotation.F},
    }
    assert provider.rotation in allowed[plays.rotation]
    if provider.rotation is Rotation.G:
        assert provider.grace_seconds <= plays.grace_s
    if plays.rotation == "single_use" and plays.reuse == "revoke":
        assert provider.rotation is Rotation.F


@pytest.mark.parametrize("name", PLAYED)
async def test_a_consent_is_given_back_where_there_is_a_way(converse: Converse, name: str) -> None:
    grant = converse(name)
    given_back = await grant.revoke()
    assert given_back == bool(profiles()[name].revoke["path"])
    if not given_back:
        assert grant.provider.revocation_by_hand
        return
    assert counts(grant.hall, grant.user_id)["revoked_by_us"] == 1
    assert not grant.opens(Secret(grant.held.access_token))


@pytest.mark.parametrize("name", [n for n in RENEWABLE_NOW if "{expires_in}" in str(profiles()[n])])
async def test_the_expiry_is_read_in_its_own_form(converse: Converse, name: str) -> None:
    grant = converse(name)
    reading = await grant.refresh()
    assert isinstance(reading, Reading)
    assert reading.tokens is not None
    assert reading.tokens.expires_at is not None
    left = (reading.tokens.expires_at - datetime.now(UTC)).total_seconds()
    assert LIFETIME - 10 < left <= LIFETIME
