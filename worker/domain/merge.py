"""What Auth0's copy of one identity's tokens may change about ours (rules M1 to M9).

Auth0's copy is a register that only logins write; ours is a chain that grows by renewals. They
meet through fingerprints never seen before, read under a pull fence, and through nothing else:
no event time, `last_login` or `updated_at` orders them, because our renewals are not on Auth0's
time line. Enumerated over all 69,300 interleavings of two logins, two renewals and two
overlapping pulls, ordering by time goes wrong in 6,316, this in none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from worker.domain.exchange import Lifetimes
from worker.domain.grant import ExpiryKind, Fingerprint, GrantKey, GrantState
from worker.domain.secret import Secret

# Auth0 may write an identity's tokens a moment before it counts the login: a strange refresh
# token is called a stranger's only when a second look, this much later, still finds no login.
SECOND_LOOK = timedelta(seconds=30)

# Or the other way round: a login counted no longer ago than this may bring its tokens yet.
SETTLES = timedelta(minutes=2)

# A login counts as later than an erasure only by more than Auth0's clock and ours may differ.
CLOCK_DOUBT = timedelta(minutes=2)

_ENDING = frozenset({GrantState.TOMBSTONED, GrantState.REVOKING})


class Kind(StrEnum):
    """What to do with Auth0's copy."""

    IGNORE = "ignore"
    CREATE = "create"
    CREATE_ANEW = "create_anew"  # in the place of an erased grant: the user has consented again
    ADOPT = "adopt"  # a new family becomes current, the old one a candidate
    PROMOTE = "promote"  # as adopt, with tokens that already wait as a candidate
    TAKE_ACCESS_TOKEN = "take_access_token"
    KEEP_CANDIDATE = "keep_candidate"
    QUARANTINE = "quarantine"  # somebody else spends this grant's refresh tokens
    LOOK_AGAIN = "look_again"  # nothing is changed or remembered: pull again in a moment


class Why(StrEnum):
    """The reason behind a decision; stored as a candidate's `why` and in the audit."""

    NEW = "new"
    LOGIN = "login"
    OVERTAKEN = "overtaken"
    NO_TOKENS = "no_tokens"
    STALE = "stale"
    OURS_LIVES = "ours_lives"
    FEWER_SCOPES = "fewer_scopes"
    IN_FLIGHT = "in_flight"
    UNEXPLAINED = "unexplained"
    SHARED_SPENDER = "shared_spender"
    MIRRORED = "mirrored"  # quarantined: we follow Auth0's copy and spend nothing of it
    TOMBSTONED = "tombstoned"
    ERASED = "erased"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A refresh token that waits as a candidate."""

    why: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """What the store holds of one grant, as far as merging asks."""

    state: GrantState
    rt_fp: Fingerprint | None
    at_fp: Fingerprint | None
    seen: frozenset[Fingerprint]  # of the fps asked about: those this grant ever had
    waiting: Mapping[Fingerprint, Waiting]  # unspent candidates, by refresh token
    upstream_at_fp: Fingerprint | None  # of Auth0's copy, as last merged
    login: str | None  # `Theirs.login` as last merged
    scope: frozenset[str] | None  # None: not told
    expiry: ExpiryKind
    expires_at: datetime | None
    in_flight: bool  # a claim's lease runs: an exchange may be under way
    pull_fence: int
    tombstoned_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """Auth0's copy of one identity's tokens, reduced to what decides.

    `login` changes exactly when the Auth0 user has logged in (or the identity has moved to
    another user): user id, count of logins and `last_login` in one. None: not known.
    """

    rt_fp: Fingerprint | None
    at_fp: Fingerprint | None
    scope: frozenset[str] | None  # identities carry none, as a rule
    login: str | None
    expired: bool = False  # the access token, by the best evidence there is of its issue
    consented_at: datetime | None = None  # evidence of the login that brought them
    last_login: datetime | None = None  # of the Auth0 user, through whatever identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    kind: Kind
    why: Why


def decide(
    ours: Ours | None,
    theirs: Theirs,
    *,
    fence: int,
    now: datetime,
    required: frozenset[str] = frozenset(),
) -> Decision:
    """Judge one identity's copy; the caller applies the decision in the same transaction.

    Args:
        fence: taken before the GET that read `theirs`; at or below `ours.pull_fence` the copy
            may be older than one already merged (M1).
        required: scopes this grant must have to be of use (M6).
    """
    if ours is None:
        nothing = theirs.rt_fp is None and theirs.at_fp is None
        return _NOTHING if nothing else Decision(kind=Kind.CREATE, why=Why.NEW)
    if refused := _refused(ours, theirs, fence):
        return refused
    if theirs.rt_fp is not None and theirs.rt_fp in ours.waiting:
        return _of_waiting(ours, theirs, ours.waiting[theirs.rt_fp], now)
    if theirs.rt_fp is None or theirs.rt_fp in ours.seen or theirs.rt_fp == ours.rt_fp:
        return _of_access_token(ours, theirs, now)
    return _of_new_family(ours, theirs, now, required)


_NOTHING = Decision(kind=Kind.IGNORE, why=Why.NO_TOKENS)  # M4: absence says nothing


def _refused(ours: Ours, theirs: Theirs, fence: int) -> Decision | None:
    """What is not looked at any closer."""
    if fence <= ours.pull_fence:
        return Decision(kind=Kind.IGNORE, why=Why.OVERTAKEN)
    if theirs.rt_fp is None and theirs.at_fp is None:
        return _NOTHING
    if ours.state is GrantState.ERASED:
        return _after_erasure(ours, theirs)
    if ours.state in _ENDING:
        return _before_erasure(ours, theirs)
    return None


def _before_erasure(ours: Ours, theirs: Theirs) -> Decision:
    """A grant that is being revoked gets no new life; what is new at Auth0 is revoked with it."""
    known = theirs.rt_fp is None or theirs.rt_fp in ours.seen or theirs.rt_fp in ours.waiting
    kind = Kind.IGNORE if known else Kind.KEEP_CANDIDATE
    return Decision(kind=kind, why=Why.TOMBSTONED)


def _after_erasure(ours: Ours, theirs: Theirs) -> Decision:
    """Nothing brings an erased grant back (I14). Tokens never seen, of a login made after the
    end, are another consent, and make another grant."""
    login, end = theirs.consented_at, ours.tombstoned_at
    later = login is not None and end is not None and login > end + CLOCK_DOUBT
    fresh = theirs.rt_fp not in ours.seen and theirs.at_fp != ours.upstream_at_fp
    if later and fresh:
        return Decision(kind=Kind.CREATE_ANEW, why=Why.NEW)
    return Decision(kind=Kind.IGNORE, why=Why.ERASED)


def _of_new_family(ours: Ours, theirs: Theirs, now: datetime, required: frozenset[str]) -> Decision:
    """A refresh token never seen: somebody logged in (M3), or somebody else spends (M8)."""
    if ours.state is GrantState.QUARANTINED:
        return Decision(kind=Kind.ADOPT, why=Why.MIRRORED)
    if not _logged_in_since(ours, theirs):
        return Decision(kind=Kind.KEEP_CANDIDATE, why=Why.UNEXPLAINED)
    if ours.in_flight:
        return Decision(kind=Kind.KEEP_CANDIDATE, why=Why.LOGIN)  # M7
    if _lacks(theirs.scope, required) and _serves(ours, now):
        return Decision(kind=Kind.KEEP_CANDIDATE, why=Why.FEWER_SCOPES)  # M6
    return Decision(kind=Kind.ADOPT, why=Why.LOGIN)


def _of_waiting(ours: Ours, theirs: Theirs, waiting: Waiting, now: datetime) -> Decision:
    """Auth0's copy is a candidate of ours: has its hour come?"""
    if waiting.why == Why.UNEXPLAINED and not _logged_in_since(ours, theirs):
        if now - waiting.since < SECOND_LOOK:
            return Decision(kind=Kind.LOOK_AGAIN, why=Why.UNEXPLAINED)
        return Decision(kind=Kind.QUARANTINE, why=Why.SHARED_SPENDER)
    needed = waiting.why == Why.FEWER_SCOPES and not _serves(ours, now)
    if waiting.why not in (Why.UNEXPLAINED, Why.LOGIN) and not needed:
        return Decision(kind=Kind.IGNORE, why=Why.STALE)  # a superseded family, or not good enough
    if ours.in_flight:
        return Decision(kind=Kind.LOOK_AGAIN, why=Why.IN_FLIGHT)
    return Decision(kind=Kind.PROMOTE, why=Why.LOGIN)


def _of_access_token(ours: Ours, theirs: Theirs, now: datetime) -> Decision:
    """No news of a refresh token: is the access token news, and of use (M2, M5)?"""
    known = theirs.at_fp in (ours.at_fp, ours.upstream_at_fp)
    if theirs.at_fp is None or known or theirs.expired:
        return Decision(kind=Kind.IGNORE, why=Why.STALE)
    if _lives(ours, now) and ours.rt_fp is not None:
        return Decision(kind=Kind.IGNORE, why=Why.OURS_LIVES)
    if _lives(ours, now) and _lacks(theirs.scope, ours.scope or frozenset()):
        return Decision(kind=Kind.IGNORE, why=Why.FEWER_SCOPES)
    if ours.in_flight:
        return Decision(kind=Kind.LOOK_AGAIN, why=Why.IN_FLIGHT)
    return Decision(kind=Kind.TAKE_ACCESS_TOKEN, why=Why.LOGIN)


def login_is_in(decision: Decision, theirs: Theirs, now: datetime) -> bool:
    """Whether `theirs.login` has brought what it brings, so that it explains nothing any more.

    Not as long as no token of the identity is shown at all (M4), nor a moment after the login:
    its refresh token would count as a stranger's when it shows up.
    """
    if decision.why is Why.NO_TOKENS:
        return False
    at = theirs.last_login
    return decision.kind is not Kind.IGNORE or at is None or now - at >= SETTLES


def _logged_in_since(ours: Ours, theirs: Theirs) -> bool:
    """Not known counts as yes: a wrong quarantine keeps a living grant from renewing."""
    return ours.login is None or theirs.login is None or ours.login != theirs.login


def _lacks(scope: frozenset[str] | None, wanted: frozenset[str]) -> bool:
    return scope is not None and not wanted <= scope


def _lives(ours: Ours, now: datetime) -> bool:
    if ours.at_fp is None:
        return False
    return ours.expires_at is None or ours.expires_at > now


def _serves(ours: Ours, now: datetime) -> bool:
    """Whether the grant can still hand out access tokens, by renewal or as it is."""
    open_ = ours.state in (GrantState.ACTIVE, GrantState.SUSPECT)
    return open_ and (ours.rt_fp is not None or _lives(ours, now))


def state_after(decision: Decision, ours: Ours) -> GrantState:
    """Where the grant stands once `decision` is applied.

    Only a login lifts `needs_reauth`. What is quarantined stays so whatever is pulled: its
    tokens are mirrored, never spent, until an operator releases it (M8).
    """
    if ours.state is GrantState.QUARANTINED or decision.kind is Kind.QUARANTINE:
        return GrantState.QUARANTINED
    if decision.kind in (Kind.ADOPT, Kind.PROMOTE):
        return GrantState.ACTIVE
    if decision.kind is Kind.TAKE_ACCESS_TOKEN and ours.rt_fp is None:
        return GrantState.ACTIVE  # there is nothing else that a login could have brought
    return ours.state


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One identity's (or connection administrator's) tokens as pulled, ready to be merged."""

    key: GrantKey
    user_id: str | None  # Auth0's; None on an admin grant
    strategy: str
    provider: str  # catalogue entry
    spends: str  # as `Provider.spends`
    not_renewable: str | None  # as `Provider.not_renewable`
    lifetimes: Lifetimes
    access_token: Secret | None
    refresh_token: Secret | None
    scope: str | None
    issued_at: datetime | None  # evidence of the login that brought them; None: not known
    expiry: ExpiryKind
    expires_at: datetime | None
    login: str | None  # as `Theirs.login`
    last_login: datetime | None = None  # as `Theirs.last_login`
    required: frozenset[str] = frozenset()
    token_type: str = "Bearer"
