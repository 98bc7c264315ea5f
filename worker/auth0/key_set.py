"""A tenant's public signing keys, with which users' own access tokens are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec

from worker.auth0.management import open_client
from worker.domain.errors import TransientError

LARGEST = 256 * 1024  # bytes; Auth0's sets hold two or three keys


class KeySets:
    """Reads `/.well-known/jwks.json` (RFC 7517); whoever asks remembers the answer.

    https://auth0.com/docs/secure/tokens/json-web-tokens/json-web-key-sets
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        client: Callable[[], httpx.AsyncClient] = open_client,
    ) -> None:
        """`addresses`: tenant → where it answers, for instance https://acme.eu.auth0.com."""
        self._addresses = addresses
        self._client = client

    async def __call__(self, tenant: str) -> Mapping[str, Any]:
        """Raises: TransientError, whatever is wrong: there are no keys to check with now."""
        address = f"{self._addresses[tenant].rstrip('/')}/.well-known/jwks.json"
        try:
            async with self._client() as http, http.stream("GET", address) as answer:
                body = bytearray()
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > LARGEST:
                        break
        except httpx.HTTPError as error:
            name = type(error).__name__
            raise TransientError(f"{tenant}: key set: {name}", code="no_key_set") from error
        return _read(tenant, answer.status_code, bytes(body))


def _read(tenant: str, status: int, body: bytes) -> Mapping[str, Any]:
    if status != httpx.codes.OK or len(body) > LARGEST:
        raise TransientError(f"{tenant}: key set: answered {status}", code="no_key_set")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise TransientError(f"{tenant}: key set: no JSON", code="no_key_set") from None
