"""When a grant is renewed next, and when its owner is warned of an end that renewing cannot move.

Everything here is arithmetic on instants the caller gives; nothing reads a clock.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache

from worker.domain.exchange import Lifetimes
from worker.domain.grant import ExpiryKind, GrantId

LONGEST_MARGIN = timedelta(minutes=15)
UNTOLD_LIFE = timedelta(hours=1)  # the commonest life, where neither answer nor entry names one
LONGEST_WARNING = timedelta(days=7)


def spread_of(grant: GrantId) -> float:
    """A number in [0, 1) that is the grant's own for ever, evenly spread over random ids."""
    return (grant.int & 0xFFFF_FFFF) / 0x1_0000_0000


def renewal_time(
    *,
    issued_at: datetime,
    expiry: ExpiryKind,
    expires_at: datetime | None,
    lifetimes: Lifetimes,
    spread: float,
    refresh_expires_at: datetime | None = None,
) -> datetime | None:
    """When to renew; None when nothing ends: no expiry, and no silence that kills the grant.

    The access token asks for a point in the tenth of its life before `margin`: one failed
    attempt leaves time for the next. Where the refresh token dies sooner (of silence, or at its
    own end), it asks for a point between a half and two thirds of that. The sooner one wins.

    Args:
        spread: in [0, 1), constant per grant; keeps grants issued together apart.
        refresh_expires_at: when the refresh token itself ends, if that is known.
    Returns: UTC; never before half of the life that binds, never after two thirds of an idle
        limit, and never before `earliest` (which wins: the provider would refuse). Of a token
        that came expired: `issued_at`, that is now.
    Source: https://www.rfc-editor.org/rfc/rfc6749#section-5.1 (`expires_in`, seconds)
    """
    access = _before_access_ends(issued_at, expiry, expires_at, lifetimes, spread)
    # No renewal moves a fixed end: to hurry towards it would only ask ever more often.
    moved = None if lifetimes.refresh_fixed else refresh_expires_at
    refresh = _before_refresh_ends(issued_at, moved, lifetimes, spread)
    soonest = min(access, refresh) if access and refresh else access or refresh
    if soonest is None:
        return None
    return max(soonest, earliest(issued_at, expires_at, lifetimes) or issued_at)


def earliest(
    issued_at: datetime, expires_at: datetime | None, lifetimes: Lifetimes
) -> datetime | None:
    """Before when the provider would refuse to renew; None: it never does.

    A token that came expired, or whose end is not told, is not made to wait for its end.
    """
    if lifetimes.not_before is None and lifetimes.max_early is None:
        return None  # as with nearly all
    times = []
    if lifetimes.not_before is not None:
        times.append(issued_at + lifetimes.not_before)
    if lifetimes.max_early is not None and expires_at is not None and expires_at > issued_at:
        times.append(expires_at - lifetimes.max_early)
    return max(times, default=None)


def of_a_login(lifetimes: Lifetimes) -> Lifetimes:
    """For a login's token that has to be exchanged once before it can be renewed: it lives
    shortly, and the rule that forbids early renewals is not for it."""
    return replace(lifetimes, access=lifetimes.first, margin=None, not_before=None, max_early=None)


def in_vain(*, logged_in_at: datetime, lifetimes: Lifetimes, now: datetime) -> bool:
    """Whether the person has been away for so long that renewing serves nobody any more."""
    return lifetimes.active_within is not None and now - logged_in_at >= lifetimes.active_within


def margin_of(life: timedelta, declared: timedelta | None) -> timedelta:
    """Time kept in hand before an access token of that life ends; at most half of it."""
    wished = declared if declared is not None else min(LONGEST_MARGIN, life / 5)
    return min(wished, life / 2)


def absolute_end(
    *, logged_in_at: datetime, refresh_expires_at: datetime | None, lifetimes: Lifetimes
) -> datetime | None:
    """When the grant dies whatever we do; None: not known to.

    What the provider told of this grant goes before what the entry declares of all.
    """
    if refresh_expires_at is not None:
        return told_end(logged_in_at=logged_in_at, told=refresh_expires_at, lifetimes=lifetimes)
    return logged_in_at + lifetimes.refresh if lifetimes.refresh is not None else None


def told_end(
    *, logged_in_at: datetime, told: datetime | None, lifetimes: Lifetimes
) -> datetime | None:
    """The end of a refresh token as an answer told it. Where it dies of silence too, that is what
    is told, and its end after the login is the sooner one at last (QuickBooks)."""
    if told is None or lifetimes.refresh is None or lifetimes.refresh_idle is None:
        return told
    return min(told, logged_in_at + lifetimes.refresh) if lifetimes.refresh_fixed else told


def warning_time(*, logged_in_at: datetime, ends_at: datetime | None) -> datetime | None:
    """When to warn of `ends_at`: a week before, or a fifth of the whole where that is less."""
    if ends_at is None:
        return None
    whole = max(ends_at - logged_in_at, timedelta(0))
    return ends_at - min(LONGEST_WARNING, whole / 5)


def _before_access_ends(
    issued_at: datetime,
    expiry: ExpiryKind,
    expires_at: datetime | None,
    lifetimes: Lifetimes,
    spread: float,
) -> datetime | None:
    if expiry is ExpiryKind.NEVER:
        return None
    latest, width = _window(_life(issued_at, expires_at, lifetimes), lifetimes.margin)
    return issued_at + latest - spread * width


@lru_cache(1024)  # the answers of a provider name the same life again and again
def _window(life: timedelta, margin: timedelta | None) -> tuple[timedelta, timedelta]:
    """How far into its life an access token may be renewed at the latest, and how long before
    that already."""
    latest = life - margin_of(life, margin)
    return latest, min(life / 10, latest - life / 2)


def _life(issued_at: datetime, expires_at: datetime | None, lifetimes: Lifetimes) -> timedelta:
    if expires_at is None:
        return lifetimes.access or UNTOLD_LIFE
    return max(expires_at - issued_at, timedelta(0))


def _before_refresh_ends(
    issued_at: datetime, refresh_expires_at: datetime | None, lifetimes: Lifetimes, spread: float
) -> datetime | None:
    limits = [limit for limit in (lifetimes.refresh_idle, lifetimes.keepalive) if limit is not None]
    if refresh_expires_at is not None:
        limits.append(max(refresh_expires_at - issued_at, timedelta(0)))
    if not limits:
        return None
    return issued_at + min(limits) * (2 / 3 - spread / 6)
