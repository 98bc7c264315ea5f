"""What the entries say about time, carried out by the schedule."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.providers.conftest import NOW, a_connection
from worker.domain.grant import ExpiryKind
from worker.domain.schedule import renewal_time

DAY, MINUTE, SECOND = timedelta(days=1), timedelta(minutes=1), timedelta(seconds=1)

# entry, life of the access token → earliest and latest renewal after issue
WHEN = {
    "google, in the last quarter hour or so": ("google-oauth2", 60 * MINUTE, 42, 48, MINUTE),
    "exact, never sooner than half a minute before": ("exact", 600 * SECOND, 572, 585, SECOND),
    "apple, once a day though a token lives an hour": ("apple", 60 * MINUTE, 24, 24, 60 * MINUTE),
    "facebook, while the token is good for weeks": ("facebook", 60 * DAY, 30, 40, DAY),
    "a token of facebook's login, within the hour": ("facebook", 60 * MINUTE, 30, 30, MINUTE),
    "instagram, not on the first day": ("instagram", 60 * MINUTE, 24, 24, 60 * MINUTE),
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
