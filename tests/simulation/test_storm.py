"""The real engine and store through kills, pauses, lost answers and outages, seed by seed.

A failing seed is replayed by `python -m tests.simulation.storm SEED`.
"""

from __future__ import annotations

import pytest

from tests.simulation.storm import VARIANTS, play


@pytest.mark.parametrize("seed", range(2 * len(VARIANTS)))
def test_no_grant_is_lost_that_could_be_kept_and_none_is_spent_twice(seed):
    seen = play(seed, renewals=60)
    assert seen["killed"] > 0
