"""What a user allowed us at one identity, its tokens, and the right to spend them.

Words (INVARIANTS): a *grant* is one identity's consent at one provider; a *family* is the chain
of refresh tokens grown from one login; a *generation* is one link of it; an *fp* is the keyed
fingerprint of a token; a *claim* is one attempt's fenced, leased right to spend one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType
from uuid import UUID

from msgspec import Struct

from worker.domain.secret import Secret

GrantId = NewType("GrantId", UUID)
AttemptId = NewType("AttemptId", UUID)
Fingerprint = NewType("Fingerprint", bytes)  # 16 bytes of HMAC-SHA256 under the fp key


class GrantState(StrEnum):
    """Where a grant stands. Claimed and uncertain are not here: they are the claim's columns."""

    ACTIVE = "active"
    SUSPECT = "suspect"  # refused once; waits for the confirmation that I8 asks for
    NEEDS_REAUTH = "needs_reauth"  # refused for good: only a login mends it
    QUARANTINED = "quarantined"  # someone else spends it, or its endpoint changed
    TOMBSTONED = "tombstoned"  # deleted: nothing is served, nothing is spent
    REVOKING = "revoking"
    ERASED = "erased"


class GrantPart(StrEnum):
    """Which of the token pairs that one account can have at one connection."""

    USER = "user"
    ADMIN = "admin"  # the consent of a connection's administrator (`options.admin_*`)
    BOT = "bot"  # Slack's second pair


class ExpiryKind(StrEnum):
    """The three states of expiry: no lifetime told is neither expired nor everlasting."""

    AT = "at"
    NEVER = "never"
    UNTOLD = "untold"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantKey:
    """What a grant is known by: linking Auth0 users moves the pointer, never the tokens (M9)."""

    tenant: str
    connection: str  # name, never the `con_…` id
    identity_user_id: str  # the provider's id of the account; of an admin grant the connection's id
    part: GrantPart = GrantPart.USER


def is_account_of(key: GrantKey, told: str | None) -> bool:
    """Whether an answer is for the account of a grant; one that does not tell is taken to be.

    Auth0 puts the connection before the provider's id for some strategies ("acme-oidc|1234").
    """
    if told is None or key.part is not GrantPart.USER:
        return True
    return told == key.identity_user_id or key.identity_user_id.endswith(f"|{told}")


# What every renewal makes is a Struct: made four times as fast as a frozen dataclass.
class TokenSet(Struct, frozen=True, kw_only=True):
    """What a token endpoint answered, its `expires_in` made absolute (RFC 6749 §5.1)."""

    access_token: Secret
    refresh_token: Secret | None  # None: the provider kept the old one (§6)
    issued_at: datetime  # UTC, our clock, read before the request left
    expiry: ExpiryKind
    expires_at: datetime | None  # set exactly when `expiry` is AT
    refresh_expires_at: datetime | None = None
    scope: str | None = None  # None: not told, which by RFC 6749 §5.1 means as asked
    token_type: str = "Bearer"
    api_base: str = ""  # where the provider's API is for this account; "": not told

    def __post_init__(self) -> None:
        if (self.expiry is ExpiryKind.AT) != (self.expires_at is not None):
            raise ValueError("expires_at is given exactly when the expiry is known")
        if self.expires_at and self.expires_at - self.issued_at < timedelta(seconds=1):
            raise ValueError("a token lives for a second at least")


class SealedTokens(Struct, frozen=True, kw_only=True):
    """One generation as the store holds it: ciphertexts, and the wrapped keys that open them."""

    generation: int
    access_token: bytes | None
    refresh_token: bytes | None
    access_key: bytes  # the grant's data key for access tokens, wrapped
    refresh_key: bytes  # and the one for refresh tokens, under another key

    def __repr__(self) -> str:
        return f"SealedTokens(generation={self.generation})"


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierAttempt:
    """An attempt on the same refresh token that never told how it ended."""

    attempt: AttemptId
    node: str
    process: str  # pid and start time, enough to prove its death on its own host
    began_at: datetime
    token_since: datetime  # when the first attempt at the token began, whoever took over since
    uncertain: bool  # True: bytes may have left; False: only claimed, as far as the store knows
    # until when one before it, taken over without proof, may yet bring the token's successor
    unproven_until: datetime | None = None


# Not frozen, but nobody changes one: a frozen one costs twice as much to make, and each renewal
# makes one.
@dataclass(slots=True, kw_only=True)
class Claim:
    """One attempt's right to spend one refresh token, until `lease_until` by the store's clock."""

    grant: GrantId
    key: GrantKey
    provider: str  # catalogue entry, for instance "github-app"
    user_id: str | None  # Auth0's; None on an admin grant
    attempt: AttemptId
    fence: int
    parent_fp: Fingerprint | None  # of the refresh token; None where the access token is exchanged
    claimed_at: datetime
    first_claimed_at: datetime  # of this refresh token: where a grace counts from
    lease_until: datetime
    tokens: SealedTokens
    scope: str | None
    issued_at: datetime
    expires_at: datetime | None
    due_at: datetime | None
    not_before: datetime | None
    rotated_before: bool  # a refresh of this grant has brought a new refresh token
    failures: int  # transient failures in a row
    state: GrantState
    suspect_since: datetime | None
    earlier: EarlierAttempt | None
    family: int
    next_generation: int  # the number reserved for the tokens this attempt brings
    logged_in_at: datetime  # when the family began; absolute ends count from here
    refresh_expires_at: datetime | None
    pulled_at: datetime | None  # when Auth0's copy was last re-read on suspicion
    last_error: str | None  # code of the failure before
    unproven_until: datetime | None = None  # as of an `EarlierAttempt`, this one's own included
