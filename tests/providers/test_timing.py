"""What the entries say about time, carried out by the schedule."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.providers.conftest import NOW, a_connection
from worker.domain.grant import ExpiryKind
from worker.domain.schedule import earliest, in_vain, of_a_login, renewal_time
from worker.domain.secret import Secret
from worker.providers import load_catalogue

DAY, MINUTE, SECOND = timedelta(days=1), timedelta(minutes=1), timedelta(seconds=1)

# entry, life of the access token → earliest and latest renewal after issue
WHEN = {
    "google, in the last quarter hour or so": ("google-oauth2", 60 * MINUTE, 42, 48, MINUTE),
    "exact, never sooner than half a minute before": ("exact", 600 * SECOND, 572, 585, SECOND),
    "apple, once a day though a token lives an hour": ("apple", 60 * MINUTE, 24, 24, 60 * MINUTE),
    "facebook, while the token is good for weeks": ("facebook", 60 * DAY, 30, 40, DAY),
    "a token of facebook's login, within the hour": ("facebook", 60 * MINUTE, 30, 30, MINUTE),
    "instagram, not on the first day": ("instagram", 60 * MINUTE, 24, 24, 60 * MINUTE),
    "instagram, later": ("instagram", 60 * DAY, 30, 40, DAY),
    "microsoft, an hour and a quarter": ("waad", 75 * MINUTE, 52, 61, MINUTE),
    "microsoft, the 28 hours of CAE": ("waad", 28 * 60 * MINUTE, 1497, 1665, MINUTE),
    "microsoft, v1.0": ("waad-v1", 60 * MINUTE, 42, 48, MINUTE),
    "slack, two hours before": ("slack", 720 * MINUTE, 528, 600, MINUTE),
}


@pytest.mark.parametrize(("name", "life", "earliest", "latest", "unit"), WHEN.values(), ids=WHEN)
@pytest.mark.parametrize("spread", [0.0, 0.5, 0.999])
def test_a_renewal_falls_due(catalogue, name, life, earliest, latest, unit, spread):
    when = renewal_time(
        issued_at=NOW,
        expiry=ExpiryKind.AT,
        expires_at=NOW + life,
        lifetimes=catalogue.entry(name, a_connection(name)).lifetimes,
        spread=spread,
    )
    assert earliest * unit <= when - NOW <= latest * unit


@pytest.mark.parametrize("name", load_catalogue({}, allow_loopback=False).names())
@given(
    life=st.none() | st.timedeltas(MINUTE, 400 * DAY),
    spread=st.floats(0, 1, exclude_max=True),
)
def test_no_silence_outlasts_two_thirds_of_what_a_provider_bears(catalogue, name, life, spread):
    """Microsoft's 90 days, Okta's seven: whatever the access token's life, and though nobody asks.

    Nor is a token left to its end, where the provider would have renewed it before.
    """
    lifetimes = catalogue.entry(name, a_connection(name)).lifetimes
    expires_at = None if life is None else NOW + life
    when = renewal_time(
        issued_at=NOW,
        expiry=ExpiryKind.UNTOLD if life is None else ExpiryKind.AT,
        expires_at=expires_at,
        lifetimes=lifetimes,
        spread=spread,
    )
    first = earliest(NOW, expires_at, lifetimes) or NOW
    for bound in filter(None, [lifetimes.refresh_idle, lifetimes.keepalive]):
        assert when <= max(NOW + bound * 2 / 3 + SECOND, first)
    if life is not None:
        assert when < max(NOW + life, first + SECOND)


@pytest.mark.parametrize("name", ["facebook", "instagram", "threads"])
@pytest.mark.parametrize("issued_at", [NOW, None])
def test_a_logins_token_of_which_nothing_is_told_is_exchanged_within_the_hour(
    catalogue, name, issued_at
):
    """Meta's answer at login names no lifetime, and what is exchanged too late is dead."""
    provider = catalogue.entry(name, a_connection(name))
    told = imported(provider, None, issued_at)
    assert told.first
    when = renewal_time(
        issued_at=NOW,
        expiry=told.kind,
        expires_at=told.expires_at,
        lifetimes=of_a_login(provider.lifetimes),
        spread=0.999,
    )
    assert when <= NOW + 45 * MINUTE


@given(seconds=st.floats(1, 90 * 86400))
def test_a_token_that_was_exchanged_before_is_told_by_its_life(catalogue, seconds):
    provider = catalogue.entry("instagram", a_connection("instagram"))
    assert imported(provider, seconds, NOW).first == (seconds <= 7200)
    assert imported(provider, str(int(NOW.timestamp() + seconds)), NOW).first == (
        int(NOW.timestamp() + seconds) - NOW.timestamp() <= 7200
    )


def imported(provider, expires_in, issued_at):
    return provider.read_imported(
        access_token=Secret("at"),
        refresh_token=None,
        expires_in=expires_in,
        issued_at=issued_at,
        now=NOW,
    )


@given(away=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_facebook_is_asked_only_while_the_person_is_active(catalogue, away):
    """Data access ends 90 days after the last login, however fresh the token."""
    facebook = catalogue.entry("facebook", a_connection("facebook")).lifetimes
    assert in_vain(logged_in_at=NOW - away, lifetimes=facebook, now=NOW) == (away >= 90 * DAY)
    google = catalogue.entry("google-oauth2", a_connection("google-oauth2")).lifetimes
    assert not in_vain(logged_in_at=NOW - away, lifetimes=google, now=NOW)


def test_an_end_that_no_refresh_moves_is_not_hurried_towards(catalogue):
    """LinkedIn counts the refresh token's life from the login and tells what is left of it."""
    lifetimes = catalogue.entry("linkedin", a_connection("linkedin")).lifetimes
    when = renewal_time(
        issued_at=NOW,
        expiry=ExpiryKind.AT,
        expires_at=NOW + 60 * DAY,
        lifetimes=lifetimes,
        spread=0.0,
        refresh_expires_at=NOW + 61 * DAY,
    )
    assert when > NOW + 50 * DAY
