"""A grant as the reading side sees it, and what may be answered about it. No refresh token here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from worker.domain.attempt import USER_INACTIVE
from worker.domain.errors import NOT_WHAT_WE_WROTE
from worker.domain.grant import ExpiryKind, GrantId, GrantKey, GrantPart, GrantState

GONE = frozenset({GrantState.TOMBSTONED, GrantState.REVOKING, GrantState.ERASED})
DEFAULT_MIN_TTL = timedelta(seconds=60)
LEAST_LIFE = timedelta(seconds=1)  # what ends sooner is over before it reaches the provider
LEEWAY = timedelta(seconds=5)  # of `use_until` before the end: the way to the provider, clock skew
LONGEST_USE = timedelta(minutes=15)  # without asking again, so that a deletion reaches every cache


class Withheld(StrEnum):
    """Why a grant that lives, and goes on being renewed, is handed to nobody."""

    USER_MISSING = "user_missing"  # Auth0 knows no such user: deleted, or linked to another?
    USER_BLOCKED = "user_blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldGrant:
    """The columns of a grant that a reader may know; the access token sealed."""

    id: GrantId
    key: GrantKey
    user_id: str | None
    strategy: str
    provider: str
    state: GrantState
    reason: str | None
    renewable: bool
    alias_of: GrantId | None
    generation: int
    access_token: bytes | None = field(repr=False)
    access_key: bytes | None = field(repr=False)
    token_type: str
    scope: str | None
    issued_at: datetime
    expiry: ExpiryKind
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    renewed_at: datetime | None
    due_at: datetime | None
    not_before: datetime | None
    failures: int
    last_error: str | None
    suspect_since: datetime | None
    withheld: Withheld | None = None
    api_base: str | None = None  # where the provider's API is for this account, if it told
    warned_at: datetime | None = None  # since the last login: it ends at `refresh_expires_at`


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question for an access token. `user_id` None asks for the connection's admin token."""

    tenant: str
    connection: str
    user_id: str | None
    identity: str | None = None
    min_ttl: timedelta | None = None  # None: a minute, or a fifth of the life if that is less
    stale: int | None = None  # "the provider refused that generation"
    part: GrantPart = GrantPart.USER  # which of a person's pairs there


class Actor(StrEnum):
    """Who can mend a grant."""

    USER = "user"
    OPERATOR = "operator"


def parked(held: HeldGrant) -> bool:
    """Refused until an administrator at the provider acts; asked about once a day."""
    active = held.state is GrantState.ACTIVE and held.renewable and held.alias_of is None
    return active and held.failures > 0 and held.reason is not None


def unreadable(held: HeldGrant) -> bool:
    """Not asked about any more, as what is stored of it is not what we wrote."""
    idle = held.state not in GONE and held.renewable and held.due_at is None
    return idle and held.last_error in NOT_WHAT_WE_WROTE


def of_what_is_held(ask: Ask, held: HeldGrant) -> Ask:
    """The question, if it tells of a generation that this store does not know: of the present one.

    After a failover the store may be behind what it had handed out. A number that is invented asks
    for no more than the true one would.
    """
    if ask.stale is None or ask.stale <= held.generation:
        return ask
    return replace(ask, stale=held.generation)


def usable(held: HeldGrant, ask: Ask, now: datetime) -> bool:
    """Whether its access token may be handed out at all: there, not refused, not over."""
    refused = ask.stale is not None and held.generation <= ask.stale
    return (
        held.state not in GONE
        and held.access_token is not None
        and not refused
        and (held.expires_at is None or held.expires_at - now >= LEAST_LIFE)
    )


def enough(held: HeldGrant, ask: Ask, now: datetime) -> bool:
    """Whether it also lives as long as asked (I10)."""
    if not usable(held, ask, now):
        return False
    return held.expires_at is None or held.expires_at - now >= wanted_life(held, ask.min_ttl)


def wanted_life(held: HeldGrant, asked: timedelta | None) -> timedelta:
    """What is asked, unless no token of this grant could ever have it.

    A fifth of the life is what the schedule keeps in hand anyway, so an impossible wish never
    forces a renewal.
    """
    if held.expires_at is None:
        return timedelta(0)
    life = held.expires_at - held.issued_at
    if asked is None:
        return min(DEFAULT_MIN_TTL, life / 5)
    return asked if asked < life else life / 5


def tells_its_life(before: HeldGrant, after: HeldGrant, ask: Ask) -> bool:
    """Whether a refused access token shows how long the tokens of its connection live.

    Only where no answer tells: one that we renewed ourselves, so that its age is known, and whose
    renewal went well, so that it was not the consent that had ended.
    """
    return (
        ask.stale == before.generation
        and before.expiry is ExpiryKind.UNTOLD
        and before.renewed_at is not None
        and after.generation > before.generation
    )


def use_until(
    held: HeldGrant, now: datetime, *, after_renewal: timedelta | None = None
) -> datetime:
    """Until when a caller may keep the access token without asking again (I10).

    Args:
        after_renewal: how long the old access token outlives the renewal, where the provider ends
            it before its `expires_at`; None: it does not.
    Returns: UTC, in [now, now + 15 min].
    """
    ends = [now + LONGEST_USE]
    if held.expires_at is not None:
        leeway = min(LEEWAY, (held.expires_at - held.issued_at) / 10)
        ends.append(held.expires_at - leeway)
    if after_renewal is not None and held.due_at is not None:
        ends.append(held.due_at + after_renewal)
    return max(now, min(ends))


def who_must_act(held: HeldGrant) -> Actor:
    """Where nothing valid is left and time will not mend it."""
    if held.withheld is not None:
        return Actor.OPERATOR
    by_login = held.state in (GrantState.NEEDS_REAUTH, GrantState.SUSPECT)
    by_login = by_login or held.reason == USER_INACTIVE
    return Actor.USER if by_login else Actor.OPERATOR
