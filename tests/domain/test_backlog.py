"""After an outage: the backlog drains under the caps, flat, soonest to expire first."""

from __future__ import annotations

from datetime import timedelta

import pytest

from worker.domain.backlog import Load, drain, even, sparkline

HOUR = 3600.0


def test_two_hours_without_a_provider_drain_flat_under_the_cap():
    load = even(100_000, life=HOUR, margin=900)
    told = drain([load], outage=timedelta(hours=2), per_second=100)
    assert told.backlog == 100_000, "everybody fell due meanwhile"
    assert max(told.curve) <= 100
    assert told.peak_to_mean <= 1.5
    assert told.drained_at == pytest.approx(7200 + 1000, abs=20)
    assert told.fresh_at <= told.drained_at


def test_nothing_expires_in_an_outage_shorter_than_the_margin():
    told = drain([even(1000, life=HOUR, margin=900)], outage=timedelta(minutes=10), per_second=50)
    assert told.expired == 0
    assert told.fresh_at == 0


def test_without_an_outage_the_load_is_steady():
    load = even(27_000, life=HOUR, margin=900)
    told = drain([load], outage=timedelta(0), per_second=1000)
    assert told.backlog == told.expired == 0
    assert load.steady == pytest.approx(10)
    assert max(told.curve) == pytest.approx(10)


def test_a_cap_below_the_steady_load_never_drains():
    told = drain([even(27_000, life=HOUR, margin=900)], outage=timedelta(hours=1), per_second=5)
    assert told.drained_at is None
    assert told.fresh_at is None


def test_who_expires_first_goes_first():
    """Grants of a day wait; those of an hour, which are over already, do not wait for them."""
    long = Load(dues=[(0.0, 10_000)], life=24 * HOUR, margin=4 * HOUR)
    short = even(1000, life=HOUR, margin=900)
    told = drain([long, short], outage=timedelta(hours=2), per_second=10)
    assert told.expired == 1000
    assert told.fresh_at < 7200 + 300
    assert told.drained_at > 7200 + 1000


def test_every_grant_is_counted_once():
    assert even(100_003, life=HOUR, margin=900).grants == 100_003
    assert drain([], outage=timedelta(hours=1), per_second=1).backlog == 0


def test_the_curve_is_drawn():
    assert sparkline([0, 0, 4, 4, 8, 8], width=3) == "▁▅█"
    assert sparkline([]) == ""
