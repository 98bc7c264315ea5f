"""Who may have which access token: API keys, their scopes, and the one decision about them.

A scope is written `[verb,verb:]tenant[/connection[/user]]`; parts left out mean `*`, verbs left
out mean `read`. In a part `*` matches any run of characters; `/`, `*`, space and `%` themselves
are percent-encoded, because user ids may hold them: `read,renew:acme/google-oauth2/auth0|*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote, unquote

from worker.domain.errors import ConfigurationError
from worker.domain.secret import Secret

KEY_PREFIX = "evg_"


class Verb(StrEnum):
    """What a key may do with the grants its scope covers."""

    READ = "read"  # access tokens of users; implies status
    RENEW = "renew"  # ask for a new one before it is due (`stale`)
    REVOKE = "revoke"  # give a grant up, upstream too
    STATUS = "status"  # see what there is, without token values
    ADMIN = "admin"  # the token of a connection's administrator, which reaches whole directories
    OWN = "own"  # the scope's other verbs, but only for the user whose own Auth0 token comes along


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Patterns over tenant, connection and user, and the verbs allowed there."""

    tenant: str = "*"
    connection: str = "*"
    user: str = "*"
    verbs: frozenset[Verb] = frozenset({Verb.READ})

    def covers(self, verb: Verb, tenant: str, connection: str | None, user: str | None) -> bool:
        """None: all of them is meant, which only the pattern `*` covers.

        A scope for `own` users covers nothing before it is bound to one (`bound_to`).
        """
        granted = verb in self.verbs or (verb is Verb.STATUS and Verb.READ in self.verbs)
        return (
            granted
            and Verb.OWN not in self.verbs
            and _matches(self.tenant, tenant)
            and _matches(self.connection, connection)
            and _matches(self.user, user)
        )

    def bound_to(self, subject: tuple[str, str] | None) -> Scope | None:
        """This scope for one proven (tenant, user id) only; None: it does not cover him."""
        if subject is None:
            return None
        tenant, user = subject
        if not _matches(self.tenant, tenant) or not _matches(self.user, user):
            return None
        return replace(
            self,
            tenant=quote(tenant, safe=""),
            user=quote(user, safe=""),
            verbs=self.verbs - {Verb.OWN},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as the store remembers it: its digest, never the key."""

    name: str
    digest: bytes = field(repr=False)  # SHA-256; keys carry ≥ 256 random bits, so no slow hash
    scopes: tuple[Scope, ...]
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def live(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def needs_proof(self) -> bool:
        """Whether nothing at all is allowed without the user's own token."""
        return all(Verb.OWN in scope.verbs for scope in self.scopes)

    def bound_to(self, subject: tuple[str, str] | None) -> ApiKey:
        """The key as it counts for a request that proved to come from (tenant, user id), or not.

        A scope with the verb `own` shrinks to that one user, and to nothing without a proof.
        """
        bound = [
            scope.bound_to(subject) if Verb.OWN in scope.verbs else scope for scope in self.scopes
        ]
        return replace(self, scopes=tuple(scope for scope in bound if scope is not None))

    def allows(self, verb: Verb, tenant: str, connection: str | None, user: str | None) -> bool:
        """I18. An admin grant has no user: ask with `Verb.ADMIN` and `user=None`."""
        return any(scope.covers(verb, tenant, connection, user) for scope in self.scopes)


def digest_of(key: Secret) -> bytes:
    """What is stored and looked up instead of the key."""
    return sha256(key.reveal()).digest()


def parse_scope(text: str) -> Scope:
    """Raises: ConfigurationError saying which word is wrong and what may stand there."""
    head, *rest = text.split("/")
    verbs, colon, tenant = head.rpartition(":")
    if len(rest) > 2 or not tenant or "" in rest:
        raise ConfigurationError(
            f"API key scope {text!r}: write [verb,verb:]tenant[/connection[/user]]",
            code="key_scope",
        )
    connection, user = [*rest, "*", "*"][:2]
    allowed = parse_verbs(verbs.split(",")) if colon else frozenset({Verb.READ})
    return Scope(tenant=tenant, connection=connection, user=user, verbs=allowed)


def parse_verbs(words: Iterable[str]) -> frozenset[Verb]:
    try:
        return frozenset(Verb(word) for word in words)
    except ValueError as error:
        known = ", ".join(Verb)
        raise ConfigurationError(f"{error}; an API key knows {known}", code="key_scope") from None


def bootstrap_key(*, name: str, secret: Secret, scope: str) -> ApiKey:
    """A key from the settings, not from the store; several scopes are parted by `;`.

    Raises: ConfigurationError naming the key, never showing it.
    """
    if len(secret.reveal()) < 16:
        raise ConfigurationError(
            f"API key {name!r}: its secret has fewer than 16 characters", code="key_too_short"
        )
    scopes = tuple(parse_scope(part.strip()) for part in scope.split(";"))
    return ApiKey(name=name, digest=digest_of(secret), scopes=scopes)


def _matches(pattern: str, value: str | None) -> bool:
    return pattern == "*" or (value is not None and bool(_compiled(pattern).fullmatch(value)))


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(unquote(part)) for part in pattern.split("*")), re.DOTALL)
