"""Dated changes are known, and told while they matter."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.changes import AFTER, AHEAD, near, sentence
from worker.providers.vocabulary import Dated

KNOWN = {
    "sharepoint": ["2026-04-02"],
    "bitbucket": ["2026-05-04"],
    "spotify": ["2026-06-18", "2026-07-20"],
    "shopify": ["2026-08-28", "2027-01-01"],
    "fitbit": ["2026-11-02"],
    "hubspot": ["2027-02-16"],
}


@pytest.mark.parametrize(("name", "days"), KNOWN.items(), ids=KNOWN)
def test_what_providers_announced_stands_in_the_catalogue(catalogue, name, days):
    assert [change.on.isoformat() for change in catalogue[name].changes] == days


DAYS = st.dates(dt.date(2026, 1, 1), dt.date(2027, 12, 31))


@given(days=st.lists(DAYS), today=DAYS)
def test_only_what_is_near_is_told_and_in_order(days, today):
    told = near([Dated(on=day, what="x") for day in days], today)
    assert [one.on for one in told] == sorted(d for d in days if -AFTER <= d - today <= AHEAD)


@pytest.mark.parametrize(
    ("day", "off"), [(28, "today"), (29, "in 1 day"), (18, "10 days ago")], ids=str
)
def test_how_far_off_it_is(day, off):
    change = Dated(on=dt.date(2026, 11, day), what="It ends.", advice="Move.")
    told = sentence(change, dt.date(2026, 11, 28))
    assert told == f"2026-11-{day} ({off}): It ends. Move."
