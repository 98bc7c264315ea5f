"""Backoff, confirmation and brake: what it takes to call a grant dead."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.attempt import Fate
from worker.domain.verdict import after_refusal, at_least, backoff, brakes, wait_for

HOUR = timedelta(hours=1)


@given(jitters=st.lists(st.floats(0, 1, exclude_max=True), min_size=12, max_size=12))
def test_a_grant_costs_its_provider_at_most_six_exchanges_an_hour(jitters):
    at, times = timedelta(0), [timedelta(0)]
    for failures, jitter in enumerate(jitters, start=1):
        at += backoff(failures, life=HOUR, jitter=jitter)
        times.append(at)
    for first in times:
        assert sum(first <= when < first + HOUR for when in times) <= 6


@given(failures=st.integers(1, 50), jitter=st.floats(0, 1, exclude_max=True))
def test_what_lives_for_seconds_is_tried_again_before_it_is_long_dead(failures, jitter):
    wait = backoff(failures, life=timedelta(seconds=10), jitter=jitter)
    assert timedelta(seconds=0.5) <= wait <= timedelta(seconds=150)


def test_retry_after_is_obeyed_up_to_a_day_and_never_shortens_our_own_wait():
    ours = timedelta(minutes=1)
    assert wait_for(None, ours) == ours
    assert wait_for(timedelta(seconds=5), ours) == ours
    assert wait_for(HOUR, ours) == HOUR
    assert wait_for(timedelta(days=30), ours) == timedelta(days=1)


@pytest.mark.parametrize(
    ("final", "unresolved", "candidate_waits", "braked", "fate"),
    [
        (False, False, False, False, Fate.SUSPECT),
        (True, False, False, False, Fate.NEEDS_REAUTH),
        (True, True, False, False, Fate.SUSPECT),
        (True, False, True, False, Fate.NEXT_CANDIDATE),
        (False, False, True, True, Fate.NEXT_CANDIDATE),
        (True, False, False, True, Fate.HELD),
        (False, False, False, True, Fate.SUSPECT),
    ],
)
def test_only_a_confirmed_refusal_with_nothing_left_to_try_is_final(
    final, unresolved, candidate_waits, braked, fate
):
    assert (
        after_refusal(
            final=final, unresolved=unresolved, candidate_waits=candidate_waits, braked=braked
        )
        is fate
    )


@pytest.mark.parametrize(
    ("suspects", "grants", "on"),
    [
        (20, 30, False),
        (21, 30, True),
        (21, 10_000, False),
        (100, 10_000, False),
        (101, 10_000, True),
    ],
)
def test_a_mass_of_refusals_is_blamed_on_something_else(suspects, grants, on):
    assert brakes(suspects=suspects, grants=grants) is on


@given(
    wait=st.timedeltas(timedelta(0), timedelta(days=1)),
    gap=st.timedeltas(timedelta(seconds=1), timedelta(hours=1)),
    life=st.none() | st.timedeltas(timedelta(seconds=1), timedelta(days=60)),
)
def test_a_providers_gap_only_lengthens_a_wait_and_never_past_a_tenth_of_the_life(wait, gap, life):
    found = at_least(wait, gap, life=life)
    assert found >= wait
    assert found == wait or found <= gap
    assert found == wait or life is None or found <= life / 10
    assert at_least(wait, None, life=life) == wait
