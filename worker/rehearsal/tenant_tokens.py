"""`POST /oauth/token` of the rehearsed tenant, and the tokens it signs.

Client credentials with a secret (form or JSON) or with private_key_jwt
(https://auth0.com/docs/get-started/authentication-and-authorization-flow/authenticate-with-private-key-jwt).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

SCOPES = (
    "read:users read:user_idp_tokens read:connections read:connections_options read:logs "
    "read:events read:event_streams read:event_deliveries update:event_deliveries read:log_streams"
)
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The machine-to-machine application Evergrant uses."""

    client_id: str
    client_secret: str = field(repr=False)
    scopes: str = SCOPES
    public_key: str | None = None  # PEM; with it the secret is refused, as Auth0 does
    token_lifetime_s: int = 86_400


class InvalidTokenError(Exception):
    """A Management API token that does not pass; the message is Auth0's."""


class TenantTokens:
    """Issues and checks Management API tokens.

    `audiences` are the identifiers the API answers to, each with its trailing slash.
    """

    def __init__(
        self,
        application: Application,
        *,
        issuer: str,
        audiences: Callable[[], tuple[str, ...]],
        clock: Callable[[], float],
    ) -> None:
        self.application = application
        self._issuer = issuer
        self._audiences = audiences
        self._clock = clock
        self._key = _signing_key()
        self._seen_jtis: OrderedDict[str, None] = OrderedDict()
        self.issued = 0

    async def answer(self, request: Request) -> Response:
        """The endpoint."""
        params = await _params(request)
        if params.get("grant_type") != "client_credentials":
            return _refused(403, "unauthorized_client", "Grant type not allowed for the client.")
        if (refused := self._check_client(params)) is not None:
            return refused
        audience = str(params.get("audience", ""))
        if audience not in self._audiences():
            return _refused(403, "access_denied", f"Service not found: {audience}")
        return JSONResponse(self._issue(audience), headers={"Cache-Control": "no-store"})

    def scopes_of(self, authorization: str) -> frozenset[str]:
        """The scopes of a bearer token. Raises InvalidTokenError."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise InvalidTokenError("Missing authentication")
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=["RS256"],
                audience=list(self._audiences()),
                options={"verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidSignatureError:
            message = "Invalid signature received for JSON Web Token validation"
            raise InvalidTokenError(message) from None
        except jwt.PyJWTError:
            raise InvalidTokenError("Invalid token") from None
        if claims["exp"] <= self._clock():
            raise InvalidTokenError("Expired token received for JSON Web Token validation")
        return frozenset(str(claims["scope"]).split())

    def jwks(self) -> dict[str, Any]:
        algorithm = jwt.algorithms.RSAAlgorithm
        key = dict(algorithm.to_jwk(self._key.public_key(), as_dict=True))
        return {"keys": [{**key, "alg": "RS256", "use": "sig", "kid": "rehearsal"}]}

    # ------------------------------------------------------------ inside

    def _issue(self, audience: str) -> dict[str, Any]:
        now, app = int(self._clock()), self.application
        self.issued += 1
        claims = {
            "iss": self._issuer,
            "sub": f"{app.client_id}@clients",
            "aud": audience,
            "iat": now,
            "exp": now + app.token_lifetime_s,
            "scope": app.scopes,
            "gty": "client-credentials",
            "azp": app.client_id,
        }
        token = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "rehearsal"})
        return {
            "access_token": token,
            "scope": app.scopes,
            "expires_in": app.token_lifetime_s,
            "token_type": "Bearer",
        }

    def _check_client(self, params: Mapping[str, Any]) -> Response | None:
        app = self.application
        if "client_assertion" in params:
            return self._check_assertion(params)
        if app.public_key or params.get("client_id") != app.client_id:
            return _refused(401, "invalid_client", "Client authentication failed")
        if params.get("client_secret") != app.client_secret:
            return _refused(401, "access_denied", "Unauthorized")
        return None

    def _check_assertion(self, params: Mapping[str, Any]) -> Response | None:
        app, now = self.application, self._clock()
        refused = _refused(401, "invalid_client", "Failed to verify the client assertion")
        if params.get("client_assertion_type") != ASSERTION or not app.public_key:
            return refused
        try:
            claims = jwt.decode(
                str(params["client_assertion"]),
                app.public_key,
                algorithms=["RS256", "RS384", "PS256"],
                audience=[self._issuer, *(a.removesuffix("api/v2/") for a in self._audiences())],
                options={"require": ["exp", "jti", "sub", "iss"], "verify_exp": False},
            )
        except jwt.PyJWTError:
            return refused
        mine = claims["iss"] == claims["sub"] == app.client_id
        in_time = now - 10 < claims["exp"] <= now + 310  # five minutes, ten seconds of skew
        if not (mine and in_time) or claims["jti"] in self._seen_jtis:
            return refused
        self._seen_jtis[claims["jti"]] = None
        if len(self._seen_jtis) > 10_000:
            self._seen_jtis.popitem(last=False)
        return None


@cache
def _signing_key() -> rsa.RSAPrivateKey:
    """One for the process: making it takes longer than starting a stage."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _refused(status: int, error: str, description: str) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status)


async def _params(request: Request) -> dict[str, Any]:
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            found = json.loads(body)
        except ValueError:
            return {}
        return dict(found) if isinstance(found, dict) else {}
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
