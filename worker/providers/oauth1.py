"""Signs a request with OAuth 1.0a (RFC 5849, HMAC-SHA1): to give such a token back, no more."""

from __future__ import annotations

from datetime import datetime

from oauthlib.oauth1 import SIGNATURE_TYPE_AUTH_HEADER, Client

from worker.domain.errors import ConfigurationError
from worker.domain.exchange import ConnectionConfig
from worker.domain.secret import Secret


def authorization(
    method: str,
    url: str,
    connection: ConnectionConfig,
    *,
    token: Secret,
    token_secret: Secret,
    now: datetime,
    nonce: str | None = None,
) -> str:
    """The Authorization header of a request without parameters in its body.

    Raises: ConfigurationError naming what the signature lacks.
    """
    if not (connection.client_id and connection.client_secret):
        raise ConfigurationError("the connection has no client to sign with", code="no_client")
    client = Client(
        connection.client_id,
        client_secret=connection.client_secret.text(),
        resource_owner_key=token.text(),
        resource_owner_secret=token_secret.text(),
        signature_type=SIGNATURE_TYPE_AUTH_HEADER,
        timestamp=str(int(now.timestamp())),
        nonce=nonce,
    )
    _, headers, _ = client.sign(url, http_method=method)
    return str(headers["Authorization"])
