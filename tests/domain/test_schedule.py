"""When renewals fall due: for every life, margin, idle limit and spread."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.exchange import Lifetimes
from worker.domain.grant import ExpiryKind, GrantId
from worker.domain.schedule import (
    UNTOLD_LIFE,
    absolute_end,
    earliest,
    renewal_time,
    spread_of,
    told_end,
    warning_time,
)

T0 = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)

lives = st.timedeltas(min_value=5 * SECOND, max_value=timedelta(days=400))
margins = st.none() | st.timedeltas(min_value=SECOND, max_value=timedelta(days=400))
limits = st.none() | st.timedeltas(min_value=10 * SECOND, max_value=timedelta(days=200))
spreads = st.floats(0, 1, exclude_max=True)


def lifetimes(
    access: timedelta | None = None,
    refresh: timedelta | None = None,
    refresh_idle: timedelta | None = None,
    margin: timedelta | None = None,
    not_before: timedelta | None = None,
    keepalive: timedelta | None = None,
    max_early: timedelta | None = None,
) -> Lifetimes:
    return Lifetimes(
        access=access,
        refresh=refresh,
        refresh_idle=refresh_idle,
        margin=margin,
        not_before=not_before,
        keepalive=keepalive,
        max_early=max_early,
    )


def due(life: timedelta, spread: float, **declared: timedelta | None) -> datetime:
    when = renewal_time(
        issued_at=T0,
        expiry=ExpiryKind.AT,
        expires_at=T0 + life,
        lifetimes=lifetimes(**declared),
        spread=spread,
    )
    assert when is not None
    return when


@given(life=lives, margin=margins, early=margins, not_before=margins, spread=spreads)
def test_nothing_falls_due_before_the_provider_would_take_it(
    life, margin, early, not_before, spread
):
    """Exact refuses what comes sooner than half a minute before expiry, Instagram the first day."""
    declared = {"margin": margin, "max_early": early, "not_before": not_before}
    when = due(life, spread, **declared)
    bound = earliest(T0, T0 + life, lifetimes(**declared))
    assert (bound is None) == (early is None and not_before is None)
    assert bound is None or when >= bound
    if not_before is None:
        assert when < T0 + life
    if early is not None:
        assert when >= T0 + life - early


@pytest.mark.parametrize("expires_at", [None, T0])
def test_what_is_over_or_ends_nobody_knows_when_waits_for_no_end(expires_at):
    """Auth0's copy without a time of issue counts as over: asked about at once."""
    assert earliest(T0, expires_at, lifetimes(max_early=SECOND)) is None


@given(life=lives, margin=margins, spread=spreads)
def test_renewal_falls_between_half_life_and_expiry(life, margin, spread):
    when = due(life, spread, margin=margin)
    assert T0 + life / 2 - SECOND / 1000 <= when < T0 + life


@given(life=lives, spread=spreads)
def test_a_fifth_of_the_life_or_a_quarter_of_an_hour_is_kept_in_hand(life, spread):
    assert T0 + life - due(life, spread) >= min(timedelta(minutes=15), life / 5) - SECOND / 1000


@given(life=lives, idle=limits, keepalive=limits, spread=spreads)
def test_silence_never_lasts_longer_than_two_thirds_of_what_kills(life, idle, keepalive, spread):
    when = due(life, spread, refresh_idle=idle, keepalive=keepalive)
    for limit in (idle, keepalive):
        if limit is not None:
            assert when <= T0 + limit * (2 / 3) + SECOND / 1000


@given(life=lives, idle=limits, not_before=limits, spread=spreads)
def test_nothing_is_asked_before_the_provider_would_answer(life, idle, not_before, spread):
    when = due(life, spread, refresh_idle=idle, not_before=not_before)
    assert when >= T0 + (not_before or timedelta(0))


@given(life=lives, refresh_life=lives, spread=spreads)
def test_a_refresh_token_that_ends_first_is_spent_before_its_end(life, refresh_life, spread):
    when = renewal_time(
        issued_at=T0,
        expiry=ExpiryKind.AT,
        expires_at=T0 + life,
        lifetimes=lifetimes(),
        spread=spread,
        refresh_expires_at=T0 + refresh_life,
    )
    assert when is not None
    assert when < T0 + refresh_life


def test_grants_issued_together_do_not_fall_due_together():
    whens = sorted(due(timedelta(hours=1), spread_of(GrantId(uuid4()))) for _ in range(200))
    assert whens[-1] - whens[0] > timedelta(minutes=4)
    assert whens[-1] <= T0 + timedelta(minutes=48)


@pytest.mark.parametrize("life", [5, 6, 7, 10])
@pytest.mark.parametrize("spread", [0.0, 0.5, 0.999])
def test_lives_of_seconds_are_renewed_in_their_second_half(life, spread):
    when = due(timedelta(seconds=life), spread)
    assert T0 + timedelta(seconds=life * 0.69) <= when <= T0 + timedelta(seconds=life * 0.8)


def test_what_never_expires_and_never_dies_of_silence_is_left_alone():
    assert (
        renewal_time(
            issued_at=T0,
            expiry=ExpiryKind.NEVER,
            expires_at=None,
            lifetimes=lifetimes(access=timedelta(hours=1)),
            spread=0.0,
        )
        is None
    )


@pytest.mark.parametrize("expiry", [ExpiryKind.NEVER, ExpiryKind.UNTOLD])
def test_a_token_without_expiry_is_kept_alive_before_silence_kills_the_grant(expiry):
    when = renewal_time(
        issued_at=T0,
        expiry=expiry,
        expires_at=None,
        lifetimes=lifetimes(access=timedelta(days=30), refresh_idle=timedelta(days=7)),
        spread=0.0,
    )
    assert when is not None
    assert T0 + timedelta(days=3.5) <= when <= T0 + timedelta(days=4.7)


def test_an_untold_expiry_goes_by_the_declared_life_or_else_an_hour():
    def untold(access: timedelta | None) -> datetime | None:
        return renewal_time(
            issued_at=T0,
            expiry=ExpiryKind.UNTOLD,
            expires_at=None,
            lifetimes=lifetimes(access=access),
            spread=0.0,
        )

    assert untold(timedelta(hours=2)) == T0 + timedelta(hours=2) - timedelta(minutes=15)
    assert untold(None) == T0 + UNTOLD_LIFE - UNTOLD_LIFE / 5


def test_a_token_that_came_expired_is_due_at_once():
    assert due(timedelta(hours=-3), 0.5) == T0


@given(
    low=st.integers(min_value=0, max_value=2**128 - 1),
)
def test_a_spread_is_at_least_nought_and_below_one(low):
    assert 0 <= spread_of(GrantId(UUID(int=low))) < 1


def test_an_end_told_of_the_grant_goes_before_the_declared_one():
    declared = lifetimes(refresh=timedelta(days=90))
    told = T0 + timedelta(days=10)
    assert absolute_end(logged_in_at=T0, refresh_expires_at=told, lifetimes=declared) == told
    assert absolute_end(logged_in_at=T0, refresh_expires_at=None, lifetimes=declared) == (
        T0 + timedelta(days=90)
    )
    assert absolute_end(logged_in_at=T0, refresh_expires_at=None, lifetimes=lifetimes()) is None


@pytest.mark.parametrize(
    ("age", "end"), [(1000 * DAY, 1100 * DAY), (1775 * DAY, 1825 * DAY)], ids=["early", "at last"]
)
def test_what_is_told_of_silence_does_not_hide_the_end_after_the_login(age, end):
    """QuickBooks tells its sliding hundred days, and ends the grant after five years."""
    rolling = lifetimes(refresh=1825 * DAY, refresh_idle=100 * DAY)
    told, fixed = T0 + age + 100 * DAY, replace(rolling, refresh_fixed=True)
    for declared, expected in ((fixed, T0 + end), (rolling, told)):
        assert told_end(logged_in_at=T0, told=told, lifetimes=declared) == expected
        found = absolute_end(logged_in_at=T0, refresh_expires_at=told, lifetimes=declared)
        assert found == expected


def test_the_warning_comes_a_week_before_a_long_end_and_in_the_last_fifth_of_a_short_one():
    assert warning_time(logged_in_at=T0, ends_at=T0 + timedelta(days=90)) == (
        T0 + timedelta(days=83)
    )
    assert warning_time(logged_in_at=T0, ends_at=T0 + timedelta(hours=10)) == (
        T0 + timedelta(hours=8)
    )
    assert warning_time(logged_in_at=T0, ends_at=None) is None
