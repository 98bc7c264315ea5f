"""One worker of two is stopped at each step, or has its clock set: nobody is spent twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import libfaketime
import pytest

from tests.drills.blows import stopped
from tests.drills.drill import LIFE, drilled
from tests.drills.judging import judge
from tests.drills.stopped_worker import STEPS

_REPLAY = os.environ.get("EVERGRANT_SEED", "")
LONG = 22.0  # seconds; a grace of thirty has others take over after eighteen
SHORT = 2.0
_FAKETIME = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"


def _stands_at(drill, step, seconds):
    """A worker of another node comes to that step and stands there, while the others go on."""
    another = str(drill.directory / "another")
    worker = drill.start_worker(
        "tests.drills.stopped_worker", EVERGRANT_STOP_AT=step, EVERGRANT_DATA_DIR=another
    )
    drill.wait_for(f"a worker stands still: {step}", lambda: stopped(worker.pid))
    before = drill.renewals()
    time.sleep(seconds)
    assert drill.renewals() > before, "the others go on"
    worker.send_signal(signal.SIGCONT)
    time.sleep(1)
    drill.workers.remove(worker)
    worker.kill()
    worker.wait()
    drill.kills += 1


@pytest.mark.drill
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(_REPLAY), reason="one seed is replayed")
def test_stopped_at_each_step_of_the_protocol(tmp_path, own_server, tell):
    """T8: as long as others take over, where a token is at stake; then it wakes, and is killed."""
    with drilled(tmp_path, own_server("postgres"), own_server("redis"), users=8) as drill:
        for step in STEPS:
            drill.blows[step] += 1
            _stands_at(drill, step, SHORT if "claim" in step else LONG)
        calm_after = drill.all_renew()
        drill.all_told()
        drill.rest()
        report = judge(drill)
    tell(f"all renewed {calm_after:.1f} s after the last stop:\n{report}")
    assert set(report.blows) == set(STEPS)
    report.check(exactly=True)


@pytest.mark.drill
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(_REPLAY), reason="one seed is replayed")
def test_a_clock_that_is_set_an_hour_off_and_back(tmp_path, own_server, tell):
    """T7: nothing is renewed twice at once, no more often than otherwise, and none is lost."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    faked = {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with drilled(tmp_path, own_server("postgres"), own_server("redis"), users=8) as drill:
        drill.start_worker(**faked)
        for one in drill.workers[:-1]:  # what is renewed, the one with the clock renews
            one.kill()
            one.wait()
        del drill.workers[:-1]
        drill.all_renew()
        rates = {}
        for step in ("+0", "+3600", "-3600", "+0"):
            offset.write_text(step)
            drill.all_renew()
            before, began = drill.renewals(), time.monotonic()
            time.sleep(2 * LIFE)
            rates[step] = (drill.renewals() - before) / (time.monotonic() - began)
            drill.blows[f"clock {step}"] += 1
        drill.all_renew()
        drill.all_told()
        drill.rest()
        report = judge(drill)
        overlaps = drill.stage.ledger()["total"]["overlaps"]
    tell(f"renewals per second, by clock: {rates}; overlaps {overlaps}\n{report}")
    assert overlaps == 0
    assert max(rates.values()) < 2 * rates["+0"], rates
    report.check(exactly=True)
