"""What a counterparty offers, whoever wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

HTTP = httpx.Client(trust_env=False, timeout=10, verify=False)


@dataclass(frozen=True, kw_only=True)
class Minted:
    """A grant somebody has just consented to, and the client it was given to."""

    client_id: str
    client_secret: str
    access_token: str
    refresh_token: str

    @property
    def basic(self) -> tuple[str, str]:
        return self.client_id, self.client_secret

    @property
    def post(self) -> dict[str, str]:
        return {"client_id": self.client_id, "client_secret": self.client_secret}


@dataclass(frozen=True)
class Counterparty:
    """A server at `base_url`: /token, /revoke, /api/me, and two doors for tests.

    POST /configure sets how it treats refresh tokens; POST /mint makes a grant.
    """

    name: str
    base_url: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def token_url(self) -> str:
        return f"{self.base_url}/token"

    def configure(self, **settings: Any) -> None:
        HTTP.post(f"{self.base_url}/configure", json={**self.defaults, **settings})

    def mint(self, **client: Any) -> Minted:
        answer = HTTP.post(f"{self.base_url}/mint", json=client)
        answer.raise_for_status()
        return Minted(**answer.json())

    def refresh(
        self, refresh_token: str, *, basic: tuple[str, str] | None = None, **form: str
    ) -> httpx.Response:
        """RFC 6749 section 6, by plain httpx."""
        body = {"grant_type": "refresh_token", "refresh_token": refresh_token} | form
        if basic is None:
            return HTTP.post(self.token_url, data=body)
        return HTTP.post(self.token_url, data=body, auth=basic)

    def opens(self, access_token: str) -> bool:
        """Whether the API takes the access token."""
        bearer = {"Authorization": f"Bearer {access_token}"}
        return HTTP.get(f"{self.base_url}/api/me", headers=bearer).status_code == 200


def environment() -> dict[str, str]:
    """For a server of its own process: nothing of this one's but where Python finds things."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
