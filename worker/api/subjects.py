"""The user's own word: an Auth0 access token that proves for whom an app is asking (I18).

For keys whose scope has the verb `own`. The token is checked as RFC 9068 §4 says: RS256 and nothing
else, whatever its header claims; issuer, audience, times, subject.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt
from starlette.requests import Request

from worker.api.problems import ProblemError
from worker.domain.access import ApiKey
from worker.domain.errors import TransientError

HEADER = "Evergrant-Subject-Token"
ALGORITHM = "RS256"  # pinned: "none", or HS256 under the public key, are the classic forgeries
LEEWAY = 30  # seconds of clock skew
KEEP = 600.0  # seconds a key set is kept
AGAIN = 60.0  # seconds before an unknown key id makes us look once more
PAUSE = 5.0  # seconds without a look after one that failed
LONGEST = 16_384  # characters

FetchKeys = Callable[[str], Awaitable[Mapping[str, Any]]]
"""A tenant's JSON Web Key Set, https://DOMAIN/.well-known/jwks.json. Raises: TransientError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose tokens count for one tenant."""

    issuer: str  # https://DOMAIN/ with the slash, as Auth0 writes it
    audience: str  # the API identifier that the apps' own API has at Auth0


class Subjects:
    """Verifies proofs; keeps each tenant's signing keys."""

    def __init__(self, trusted: Mapping[str, Trust], fetch: FetchKeys) -> None:
        self._trusted = trusted
        self._fetch = fetch
        self._kept: dict[str, tuple[float, dict[str, jwt.PyJWK]]] = {}
        self._failed: dict[str, tuple[float, str]] = {}  # until when, and why
        self._lines: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def narrowed(self, key: ApiKey, request: Request, tenant: str) -> ApiKey:
        """The key as far as this request's proof carries it. Raises: ProblemError (401)."""
        proofs = request.headers.getlist(HEADER)
        if not proofs:
            if key.needs_proof:
                raise _missing()
            return key.bound_to(None)
        if len(proofs) > 1 or len(proofs[0]) > LONGEST or tenant not in self._trusted:
            raise _refused()
        return key.bound_to((tenant, await self._subject(tenant, proofs[0])))

    async def _subject(self, tenant: str, proof: str) -> str:
        trust = self._trusted[tenant]
        try:
            header = jwt.get_unverified_header(proof)
            key = await self._key(tenant, str(header.get("kid")))
            claims = jwt.decode(
                proof,
                key,
                algorithms=[ALGORITHM],
                audience=trust.audience,
                issuer=trust.issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError:
            raise _refused() from None
        return str(claims["sub"])

    async def _key(self, tenant: str, key_id: str) -> jwt.PyJWK:
        if self._is_to_look(tenant, key_id):
            # a key id is whatever a caller writes: his thousand requests are one look
            async with self._lines[tenant]:
                if self._is_to_look(tenant, key_id):
                    await self._look(tenant)
        keys = self._kept[tenant][1]
        if key_id not in keys:
            raise _refused()
        return keys[key_id]

    def _is_to_look(self, tenant: str, key_id: str) -> bool:
        fetched_at, keys = self._kept.get(tenant, (float("-inf"), {}))
        age = time.monotonic() - fetched_at
        return age > KEEP or (key_id not in keys and age > AGAIN)

    async def _look(self, tenant: str) -> None:
        until, why = self._failed.get(tenant, (float("-inf"), ""))
        if (left := until - time.monotonic()) > 0:
            raise TransientError(
                f"{tenant}: no key set a moment ago",
                code=why,
                retry_after=timedelta(seconds=left),
            )
        try:
            keys = _signing_keys(await self._fetch(tenant))
        except TransientError as error:
            self._failed[tenant] = (time.monotonic() + PAUSE, error.code)
            raise
        self._kept[tenant] = (time.monotonic(), keys)


def _signing_keys(document: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """RSA keys for signatures; what else a set may hold is not for us."""
    found = document.get("keys")
    if not isinstance(found, list):
        raise TransientError("the tenant's key set is no key set", code="bad_key_set")
    usable = [
        key
        for key in found
        if isinstance(key, dict) and key.get("kty") == "RSA" and key.get("use", "sig") == "sig"
    ]
    return {str(key.get("kid")): made for key in usable if (made := _made(key)) is not None}


def _made(key: dict[str, Any]) -> jwt.PyJWK | None:
    """None: not to be read, which is no reason to refuse what the others have signed."""
    try:
        return jwt.PyJWK(key, ALGORITHM)
    except jwt.PyJWTError:
        return None


def _missing() -> ProblemError:
    return ProblemError(
        401,
        "subject_missing",
        "This key speaks only for the user who asks",
        f"Send the user's own Auth0 access token in the header `{HEADER}`.",
    )


def _refused() -> ProblemError:
    return ProblemError(
        401,
        "subject_refused",
        "The user's token is not accepted",
        "It must be an Auth0 access token of this tenant (RS256), for the audience that is set up, "
        "and not expired.",
    )
