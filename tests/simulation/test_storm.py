"""The real engine and store through kills, pauses, lost answers and outages, seed by seed.

Short form, in the suite: 21 seeds of 40 renewals, about 40 s of CPU, every row of the crash table
reached. Long form, `make drill`: 300 seeds of 200; EVERGRANT_SEEDS says another number. A failing
seed is replayed by `make drill SEED=17`.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.storm import ROWS, VARIANTS, play, rows_reached

_REPLAY = os.environ.get("EVERGRANT_SEED", "")
_RENEWALS = 200  # of the long form


@pytest.mark.timeout(900)
def test_no_grant_is_lost_that_could_be_kept_and_none_is_spent_twice():
    seen = Counter()
    for seed in range(3 * len(VARIANTS)):
        seen += play(seed, renewals=40)
    reached = rows_reached(seen)
    print(reached, dict(seen))
    assert set(ROWS) == {row for row, count in reached.items() if count > 0}, reached


@pytest.mark.drill
@pytest.mark.skipif(bool(_REPLAY), reason="one seed is replayed")
def test_hundreds_of_seeds():
    seeds = range(1000, 1000 + int(os.environ.get("EVERGRANT_SEEDS", "300")))
    seen, failed = Counter(), []
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for told in pool.map(_told, seeds, chunksize=4):
            if isinstance(told, str):
                failed.append(told)
            else:
                seen += told
    reached = rows_reached(seen)
    print(f"\n{len(seeds)} seeds of {_RENEWALS} renewals:", reached)
    for what, count in sorted(seen.items()):
        print(f"{count:8d}  {what}")
    assert not failed, "\n".join(failed)
    assert 0 not in reached.values(), reached


@pytest.mark.drill
@pytest.mark.skipif(not _REPLAY, reason="SEED=… names none")
def test_the_seed_that_is_replayed():
    for what, count in sorted(play(int(_REPLAY), renewals=_RENEWALS).items()):
        print(f"{count:8d}  {what}")


def _told(seed: int) -> Counter[str] | str:
    try:
        return play(seed, renewals=_RENEWALS)
    except AssertionError as error:
        return str(error)
