"""One user's grant at one rehearsed provider, and the product's own side of it.

The real catalogue builds the requests and judges the answers, the real token endpoint carries
them over loopback; what is held is held as the engine holds it. Time is the stage's, and passes
only when a test says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.rehearsal.conftest import HTTP, identity
from worker.domain.exchange import (
    Answered,
    ConnectionConfig,
    NotSent,
    Outcome,
    Reading,
    RevocationVerdict,
    Uncertain,
    Verdict,
    WireRequest,
)
from worker.domain.grant import ExpiryKind, TokenSet
from worker.domain.schedule import of_a_login, renewal_time
from worker.domain.secret import Secret
from worker.domain.token_pair import joined, parted
from worker.providers import HttpTokenEndpoint
from worker.providers.provider import CatalogueProvider
from worker.rehearsal import Profile, RunningStage


@dataclass
class Conversation:
    """What we hold of one grant; `tokens` is what the schedule goes by."""

    hall: RunningStage
    plays: Profile
    provider: CatalogueProvider
    connection: ConnectionConfig
    user_id: str
    refresh_token: str | None
    tokens: TokenSet
    first: bool = False  # the login's token, to be exchanged once before it can be renewed

    @property
    def subject(self) -> str:
        """The account at the provider."""
        return self.user_id.rpartition("|")[2]

    @property
    def spends(self) -> str:
        """What a refresh would spend now."""
        held = parted(self.tokens.access_token)[0].text()
        return held if self.provider.spends == "at" else str(self.refresh_token)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.hall.stage.clock(), UTC)

    def passes(self, **time: float) -> None:
        self.hall.stage.pass_time(timedelta(**time).total_seconds())

    def falls_due(self) -> None:
        """Time passes until the schedule would renew."""
        lifetimes = self.provider.lifetimes
        due = renewal_time(
            issued_at=self.tokens.issued_at,
            expiry=self.tokens.expiry,
            expires_at=self.tokens.expires_at,
            lifetimes=of_a_login(lifetimes) if self.first else lifetimes,
            spread=0.5,
            refresh_expires_at=self.tokens.refresh_expires_at,
        )
        if due and due > self.now():
            self.passes(seconds=(due - self.now()).total_seconds())

    def fault(self, profile: str) -> None:
        self.hall.do("faults", provider=self.plays.name, profile=profile, count=1)

    async def spend(self, token: str) -> Reading | NotSent | Uncertain:
        """Ask once; nothing that comes back is kept."""
        asked_at = self.now()
        request = self.provider.request(
            self.connection, subject=Secret(token), scope=None, now=asked_at, first=self.first
        )
        outcome = await _send(request)
        if isinstance(outcome, Answered):
            return self.provider.read(outcome, asked_at=asked_at)
        return outcome

    async def asked(self) -> Reading:
        """Spend what is held, at once, and judge the answer."""
        reading = await self.spend(self.spends)
        assert isinstance(reading, Reading)
        return reading

    async def renew(self) -> TokenSet:
        """Renew when due, as the engine does: a new refresh token replaces, an absent one keeps."""
        self.falls_due()
        reading = await self.asked()
        assert reading.verdict is Verdict.RENEWED, reading
        assert reading.tokens is not None
        self.tokens, self.first = reading.tokens, False
        if reading.tokens.refresh_token:
            self.refresh_token = reading.tokens.refresh_token.text()
        return reading.tokens

    async def revoke(self) -> RevocationVerdict | None:
        """Give the consent back; None where there is nobody to ask."""
        request = self.provider.revocation(
            self.connection,
            access_token=self.tokens.access_token,
            refresh_token=Secret(self.refresh_token) if self.refresh_token else None,
            now=self.now(),
        )
        if request is None:
            return None
        outcome = await _send(request)
        assert isinstance(outcome, Answered)
        return self.provider.read_revocation(outcome)

    def opens(self, access_token: Secret | None = None) -> bool:
        """Whether the provider's API takes the access token (the one held)."""
        token = parted(access_token or self.tokens.access_token)[0].text()
        url = f"{self.hall.stage.provider_urls[self.plays.name]}/api/me"
        answer = HTTP.get(url, headers={"Authorization": f"Bearer {token}"})
        return answer.status_code == 200 and "id" in answer.json()

    def ledger(self) -> dict[str, Any]:
        return self.hall.grants(provider=self.plays.name, subject=self.subject)[0]


async def _send(request: WireRequest) -> Outcome:
    endpoint = HttpTokenEndpoint(allow_loopback=True)
    try:
        return await endpoint.exchange(request, gate=lambda: True, read_timeout=5)
    finally:
        await endpoint.close()


def held(hall: RunningStage, name: str, user_id: str) -> TokenSet:
    """What a login brought, read when it came."""
    found, issuer = identity(hall, user_id), hall.stage.providers[name].issuer
    issued_at = datetime.fromtimestamp(hall.stage.clock(), UTC)
    told = found.expires_in is not None
    return TokenSet(
        access_token=joined(
            Secret(found.access_token),
            Secret(found.access_token_secret) if found.access_token_secret else None,
        ),
        refresh_token=Secret(found.refresh_token) if found.refresh_token else None,
        issued_at=issued_at,
        expiry=ExpiryKind.AT if told else ExpiryKind.UNTOLD,
        expires_at=issued_at + timedelta(seconds=issuer.lifetime) if told else None,
        refresh_expires_at=None,
        scope=None,
        token_type="Bearer",
    )


def connection_of(hall: RunningStage, name: str, overrides: dict[str, Any]) -> ConnectionConfig:
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


_APPLE_KEY = ec.generate_private_key(ec.SECP256R1())


def _apple_secret(hall: RunningStage, client_id: str) -> str:
    public = _APPLE_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    hall.stage.providers["apple"].register_key(client_id, public.decode())
    return pem(_APPLE_KEY)


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
