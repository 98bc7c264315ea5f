"""The real engine and store through everything that can befall them, seed by seed.

Short form, in the suite: eleven times 28 seeds of 200 renewals; each 28 reach every row of the
crash table and every fault. Long form, `make drill`: 10,000 seeds, in an hour or two;
EVERGRANT_SEEDS says another number. A failing seed is replayed by `make drill SEED=17`.
"""

from __future__ import annotations

import os
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.rows import reached
from tests.simulation.storm import VARIANTS, play

_REPLAY = os.environ.get("EVERGRANT_SEED", "")
_RENEWALS = 200
_PART = 4 * len(VARIANTS)  # seeds; so many reach everything
_PARTS = 11  # of about half a minute, for any number of workers


def _fails_nowhere(told: list[Counter[str] | str]) -> Counter[str]:
    seen: Counter[str] = sum((one for one in told if isinstance(one, Counter)), Counter())
    failed = [one for one in told if isinstance(one, str)]
    assert not failed, "\n".join(failed)
    return seen


def _all_reached(seen: Counter[str]) -> None:
    counts = reached(seen)
    assert 0 not in counts.values(), counts


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(_PARTS))
def test_no_grant_is_lost_that_could_be_kept_and_none_is_spent_twice(part, count):
    seen = _fails_nowhere([_told(seed) for seed in range(part * _PART, (part + 1) * _PART)])
    count(f"simulated, {_RENEWALS} renewals a seed", {"seeds": _PART, **reached(seen)})
    _all_reached(seen)


@pytest.mark.drill
@pytest.mark.timeout(8 * 3600)
@pytest.mark.skipif(bool(_REPLAY), reason="one seed is replayed")
def test_ten_thousand_seeds(capsys, count, tell):
    seeds = range(1000, 1000 + int(os.environ.get("EVERGRANT_SEEDS", "10000")))
    began, told = time.monotonic(), []
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for one in pool.map(_told, seeds, chunksize=4):
            told.append(one)
            if isinstance(one, str) or len(told) % 500 == 0:
                with capsys.disabled():
                    print(one if isinstance(one, str) else f"{len(told)} of {len(seeds)} seeds")
    seen = _fails_nowhere(told)
    minutes = (time.monotonic() - began) / 60
    tell(f"{len(seeds)} seeds of {_RENEWALS} renewals in {minutes:.1f} minutes\n{_listed(seen)}")
    count(f"simulated, {_RENEWALS} renewals a seed", {"seeds": len(seeds), **reached(seen)})
    _all_reached(seen)


@pytest.mark.drill
@pytest.mark.skipif(not _REPLAY, reason="SEED=… names none")
def test_the_seed_that_is_replayed(tell):
    if not _REPLAY.isdecimal():
        pytest.fail(f"SEED={_REPLAY}: a number, as a red seed was told", pytrace=False)
    tell(_listed(play(int(_REPLAY), renewals=_RENEWALS)))


def _listed(seen: Counter[str]) -> str:
    return "\n".join(f"{times:8d}  {what}" for what, times in sorted(seen.items()))


def _told(seed: int) -> Counter[str] | str:
    """What was reached; or, naming the seed, what went wrong."""
    try:
        return play(seed, renewals=_RENEWALS)
    except AssertionError as error:
        return str(error)
    except Exception as error:
        return f"seed {seed}: {''.join(traceback.format_exception(error))}"
