"""How one attempt at a renewal ends, as values the store writes and a journal may repeat.

An attempt ends in exactly one of `Brought`, `Postponed`, `Refused`, `LeftUncertain`; each names
the grant, the attempt and its fence, and changes a grant only while that fence holds. What a
lost fence brings is kept all the same, as a candidate (I3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from worker.domain.grant import (
    AttemptId,
    EarlierAttempt,
    ExpiryKind,
    Fingerprint,
    GrantId,
    GrantKey,
)
from worker.domain.ports import Notice

OTHER_ACCOUNT = "other_account"  # a refresh brought the tokens of somebody else
USER_INACTIVE = "user_inactive"  # the person has not logged in for too long


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A grant whose attempt never told how it ended, or told that it does not know."""

    grant: GrantId
    key: GrantKey
    provider: str
    earlier: EarlierAttempt
    fence: int
    lease_until: datetime
    expires_at: datetime | None
    rotated_before: bool
    seen_at: datetime  # now, by the store's clock


# Not frozen, as `Claim` is not, and nobody changes one either.
@dataclass(slots=True, kw_only=True)
class Brought:
    """Tokens came: sealed, and durable in the journal if a refresh token is among them."""

    grant: GrantId
    tenant: str
    connection: str
    provider: str
    user_id: str | None
    attempt: AttemptId
    fence: int
    parent_fp: Fingerprint | None
    family: int
    generation: int
    access_token: bytes | None = field(repr=False)
    refresh_token: bytes | None = field(repr=False)  # the old one sealed anew, if none came
    at_fp: Fingerprint | None
    rt_fp: Fingerprint | None
    token_type: str
    scope: str | None  # None: not told, so as before
    issued_at: datetime
    expiry: ExpiryKind
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    due_at: datetime | None
    not_before: datetime | None
    logged_in_at: datetime
    read: bool = True  # False: the answer was no renewal, so its tokens are candidates (C21)
    echoed: bool = False  # the very refresh token sent came back on a resend (C22)
    healed: bool = False  # the grant was suspect until now
    notices: tuple[Notice, ...] = ()
    api_base: str = ""  # as `TokenSet.api_base`
    aside: str = ""  # why its tokens are kept and never tried, for instance `OTHER_ACCOUNT`

    @property
    def rotated(self) -> bool:
        """A refresh token came that is not the one spent."""
        return self.rt_fp is not None and self.rt_fp != self.parent_fp

    def bare(self) -> Brought:
        """What cannot be had again, as a candidate: where the whole of it cannot be written."""
        return replace(self, read=False, scope=None, token_type="Bearer", notices=(), api_base="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponed:
    """Nothing was spent, or nothing came of it: the same token is tried again at `due_at`."""

    grant: GrantId
    attempt: AttemptId
    fence: int
    code: str  # why
    due_at: datetime | None  # None: nothing to do until something changes
    failures: int  # what the grant's count becomes
    unrenewable: bool = False  # nothing to renew with; `code` says why
    parked: bool = False  # refused until an administrator acts; `code` says why
    unreadable: bool = False  # what is stored of it is not what we wrote; `code` says how
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftUncertain:
    """Bytes left and no answer came: the claim stays, and a takeover decides (C7)."""

    grant: GrantId
    attempt: AttemptId
    fence: int
    code: str
    due_at: datetime
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The provider called the grant dead. What that means the store's rows decide (I8)."""

    grant: GrantId
    tenant: str
    connection: str
    user_id: str | None
    attempt: AttemptId
    fence: int
    code: str  # the provider's word
    at: datetime
    heals: bool  # an admin can undo it, with the same token
    final: bool  # a second refusal, long enough after the first, with Auth0's copy re-read
    unresolved_until: datetime | None  # an earlier attempt may yet bring its successor
    parents_live: bool  # a token works on after its successor came (N, M): it too may be tried
    retry_at: datetime  # of the confirmation
    notice: Notice  # told if this refusal turns out to be final


Ending = Brought | Postponed | LeftUncertain | Refused


class Fate(StrEnum):
    """What became of an ending in the store."""

    APPLIED = "applied"
    REPEATED = "repeated"  # the store had it already: a replay, or an unknown commit
    CANDIDATE = "candidate"  # the fence was lost, or the answer was no renewal
    LATE = "late"  # the fence was lost and there was nothing to keep
    GONE = "gone"  # the grant was deleted meanwhile; tokens that came are for revoking (C20)
    SUSPECT = "suspect"
    NEXT_CANDIDATE = "next_candidate"  # refused, and another refresh token became current
    NEEDS_REAUTH = "needs_reauth"
    HELD = "held"  # would be final, but the connection's brake is on


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A group of endings, written in one transaction."""

    fates: Mapping[tuple[GrantId, int], Fate]  # by grant and fence
    counter: int | None  # this process's commits of rotated tokens so far (I24)
