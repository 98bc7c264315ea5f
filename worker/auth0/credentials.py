"""Who we are to a tenant, and how we prove it to its token endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

import jwt

from worker.domain.errors import ConfigurationError
from worker.domain.secret import Secret

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFE = timedelta(minutes=1)  # Auth0 allows five, and recommends one
_ALGORITHMS = frozenset({"RS256", "RS384", "PS256"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A machine-to-machine application of one tenant.

    `domain` is the canonical one, never a custom domain: the audience is made of it, and a token
    is good only at the domain that issued it. `base_url` replaces `https://<domain>` as the
    address alone, for tests and the rehearsal tenant.

    Source: https://auth0.com/docs/get-started/authentication-and-authorization-flow/authenticate-with-private-key-jwt
    """

    domain: str
    client_id: str
    client_secret: Secret | None = None
    private_key: Secret | None = None  # PEM; goes before the secret
    algorithm: str = "RS256"
    base_url: str | None = None

    def __post_init__(self) -> None:
        if self.client_secret is None and self.private_key is None:
            raise ConfigurationError(f"{self.domain}: give client_secret or private_key")
        if self.algorithm not in _ALGORITHMS:
            raise ConfigurationError(
                f"{self.domain}: Auth0 knows no {self.algorithm}; use one of "
                + ", ".join(sorted(_ALGORITHMS))
            )

    @property
    def address(self) -> str:
        return (self.base_url or f"https://{self.domain}").rstrip("/")

    @property
    def audience(self) -> str:
        """The trailing slash is part of the identifier."""
        return f"https://{self.domain}/api/v2/"

    def token_form(self, now: datetime) -> Mapping[str, str]:
        """The client credentials request (RFC 6749 §4.4.2), form-encoded by the caller."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "audience": self.audience,
        }
        if self.private_key is not None:
            assertion = self._assertion(self.private_key, now)
            return form | {"client_assertion_type": _ASSERTION, "client_assertion": assertion}
        assert self.client_secret is not None
        return form | {"client_secret": self.client_secret.text()}

    def _assertion(self, key: Secret, now: datetime) -> str:
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": f"https://{self.domain}/",
            "iat": now,
            "exp": now + _ASSERTION_LIFE,
            "jti": str(uuid4()),  # good once
        }
        try:
            return jwt.encode(claims, key.text(), algorithm=self.algorithm)
        except (ValueError, TypeError, jwt.PyJWTError):
            raise ConfigurationError(
                f"{self.domain}: private_key is not a PEM key fit for {self.algorithm}"
            ) from None
