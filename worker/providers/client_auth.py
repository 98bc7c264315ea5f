"""How the connection's client proves itself to a token endpoint.

One way per request, declared, never probed: some servers refuse credentials in header and body
at once, and a second try with another method could spend a single-use token.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from urllib.parse import quote_plus

import jwt

from worker.domain.errors import ConfigurationError
from worker.domain.exchange import ConnectionConfig
from worker.domain.secret import Secret
from worker.providers.filling import option
from worker.providers.vocabulary import Entry

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 §2.2
APPLE = "https://appleid.apple.com"
_SHARED = 1800  # seconds that requests share one client secret
NEEDS_SECRET = frozenset(
    {"post", "basic", "basic_or_post", "basic_secret_as_user", "apple_jwt", "secret_only"}
)
SIGNED = frozenset({"private_key_jwt", "apple_jwt", "oauth1"})  # so they depend on the time
_FROM_METADATA = {
    "client_secret_post": "post",
    "client_secret_basic": "basic",
    "private_key_jwt": "private_key_jwt",
    "none": "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What authentication adds to a request."""

    params: dict[str, str] = field(default_factory=dict, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)


def method_for(entry: Entry, connection: ConnectionConfig) -> str:
    """The declared method; `per_connection` asks the options, and posts where they are silent.

    A connection with an Authorization header among its `customHeaders` proves itself by that
    header, as it does when Auth0 asks: nothing may stand beside it.
    """
    if any(name.lower() == "authorization" for name in connection.headers):
        return "header"
    if entry.client_auth != "per_connection":
        return entry.client_auth
    if stated := _FROM_METADATA.get(str(option(connection, "token_endpoint_auth_method"))):
        return stated
    supported = option(connection, "oidc_metadata.token_endpoint_auth_methods_supported")
    if isinstance(supported, list) and supported and "client_secret_post" not in supported:
        return next((_FROM_METADATA[m] for m in supported if m in _FROM_METADATA), "post")
    return "post"


def prove(entry: Entry, connection: ConnectionConfig, *, audience: str, now: datetime) -> Proof:
    """Raises: ConfigurationError naming what the connection lacks."""
    method = method_for(entry, connection)
    if method in {"header", "anonymous"}:
        return Proof()
    if method == "secret_only":
        return Proof(params={entry.client_secret_param: _secret(connection)})
    client_id = connection.client_id
    if not client_id:
        raise ConfigurationError("the connection has no client_id", code="no_client")
    if method in {"basic", "basic_secret_as_user"}:
        secret = _secret(connection)
        pair = (client_id, secret) if method == "basic" else (secret, "")
        return Proof(headers={"authorization": basic(*pair)})
    named = {entry.client_id_param: client_id}
    if method == "private_key_jwt":
        named |= _assertion(connection, audience, now)
    elif method == "apple_jwt":
        named[entry.client_secret_param] = apple_secret(connection, now)
    elif method == "oauth1":
        raise ConfigurationError("OAuth 1.0a requests are not sent", code="oauth1")
    elif method != "none":
        named[entry.client_secret_param] = _secret(connection)
    return Proof(params=named)


def _secret(connection: ConnectionConfig) -> str:
    if connection.client_secret is None:
        raise ConfigurationError("the connection has no client_secret", code="no_client_secret")
    return connection.client_secret.text()


def basic(user: str, password: str) -> str:
    """The header value; both parts are form-encoded first (RFC 6749 §2.3.1)."""
    pair = f"{quote_plus(user)}:{quote_plus(password)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def own_key(connection: ConnectionConfig) -> str | None:
    """The PEM key the operator gave us for this connection; Auth0 never hands out its own."""
    return _text(connection.overrides.get("private_key"))


def apple_lacks(connection: ConnectionConfig) -> str:
    """What is missing to sign Apple's client secret; "" for nothing."""
    held = {
        "team_id": _override(connection, "team_id") or _option(connection, "team_id"),
        "kid (key_id)": _override(connection, "key_id") or _option(connection, "kid"),
    }
    return " and ".join(name for name, value in held.items() if not value)


def apple_secret(connection: ConnectionConfig, now: datetime) -> str:
    """The client secret that Apple wants: a token signed with the .p8 key, here for an hour.

    Half an hour's requests share one: signing costs more than all the rest of a request.

    Source: https://developer.apple.com/documentation/accountorganizationaldatasharing/creating-a-client-secret
    """
    key = (
        own_key(connection) or _text(connection.client_secret) or _option(connection, "app_secret")
    )
    team = _override(connection, "team_id") or _option(connection, "team_id")
    key_id = _override(connection, "key_id") or _option(connection, "kid")
    if not (key and team and key_id and connection.client_id):
        raise ConfigurationError(
            "Apple needs client_id, team_id, kid and the .p8 key (app_secret)", code="no_apple_key"
        )
    return _apple_secret(team, connection.client_id, key_id, key, int(now.timestamp() // _SHARED))


@lru_cache(64)
def _apple_secret(team: str, client_id: str, key_id: str, key: str, slot: int) -> str:
    since = datetime.fromtimestamp(slot * _SHARED, UTC)
    claims = {"iss": team, "sub": client_id, "aud": APPLE, **_lived(since, hours=1)}
    return _signed(claims, key, "ES256", key_id)


def _assertion(connection: ConnectionConfig, audience: str, now: datetime) -> dict[str, str]:
    key = own_key(connection)
    if key is None:
        raise ConfigurationError(
            "the connection signs with a key that Auth0 holds; register a key of your own at the "
            "provider and set private_key",
            code="no_private_key",
        )
    claims = {
        "iss": connection.client_id,
        "sub": connection.client_id,
        "aud": _override(connection, "audience") or audience,
        "jti": str(uuid.uuid4()),
        **_lived(now, minutes=5),
    }
    algorithm = _override(connection, "signing_alg") or "RS256"
    signed = _signed(claims, key, algorithm, _override(connection, "key_id"))
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed}


def _signed(claims: dict[str, object], key: str, algorithm: str, key_id: str | None) -> str:
    try:
        return jwt.encode(claims, key, algorithm, headers={"kid": key_id} if key_id else None)
    except (ValueError, TypeError, NotImplementedError, jwt.PyJWTError):
        # From None: a traceback of the parser could show the key.
        raise ConfigurationError(
            f"the private key does not sign {algorithm}", code="bad_private_key"
        ) from None


def key_problem(key: object, algorithm: object) -> tuple[str, str] | None:
    """What is wrong with an operator's `private_key` or `signing_alg`: which of them, and what."""
    if algorithm is not None and algorithm not in _ALGORITHMS:
        close = get_close_matches(str(algorithm), _ALGORITHMS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; there is {', '.join(_ALGORITHMS)}"
        return "signing_alg", f"'{algorithm}' is no value of signing_alg{hint}"
    if (pem := _text(key)) is None:
        return None
    try:
        _signed({}, pem, str(algorithm or "RS256"), None)
    except ConfigurationError as error:
        return "private_key", f"{error}: a private key in PEM is needed (file:PATH, env:NAME)"
    return None


_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")


def _lived(now: datetime, **life: int) -> dict[str, object]:
    # A minute back: a provider whose clock is behind ours refuses what is not yet valid.
    return {"iat": now - timedelta(minutes=1), "exp": now + timedelta(**life)}


def _override(connection: ConnectionConfig, key: str) -> str | None:
    return _text(connection.overrides.get(key))


def _option(connection: ConnectionConfig, key: str) -> str | None:
    return _text(option(connection, key))


def _text(value: object) -> str | None:
    if isinstance(value, Secret):
        return value.text()
    return value if isinstance(value, str) and value else None
