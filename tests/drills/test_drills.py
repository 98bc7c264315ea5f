"""Real workers, killed; a store that goes; a broker that forgets. The providers keep the score.

The short form is in the suite; `make drill` plays the long one.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.drills.drill import drilled, judge

SECONDS = int(os.environ.get("EVERGRANT_DRILL_SECONDS", "300"))  # of blows, in the long form
_REPLAY = os.environ.get("EVERGRANT_SEED", "")


@pytest.mark.timeout(400)
def test_killed_workers_a_lost_store_and_a_flushed_broker_cost_no_grant(tmp_path, own_server):
    """I1, I2, I4, I8, I11 over real processes, PostgreSQL and Redis; about 15 s of CPU."""
    store, broker = own_server("postgres"), own_server("redis")
    with drilled(tmp_path, store, broker, users=4) as drill:
        drill.wait_for("renewals flow", lambda: drill.renewals() > 10)
        drill.stage.do("faults", profile="slow_answer", delay_after=0.5, for_seconds=10)
        drill.wait_for_strict_exchange()
        drill.kill_one()
        drill.kill_one()
        broker.kill()
        drill.freeze_one(1.0)
        drill.kill_one()
        store.stop()
        store.start()
        broker.start()  # empty
        calm_after = drill.all_renew()
        report = judge(drill)
    print(f"all renewed {calm_after:.1f} s after the last blow: {report}")
    assert report.spent_twice == report.false_verdicts == report.lost_of_kept == 0, report
    assert report.lost_of_strict <= report.never_durable, report


@pytest.mark.drill
@pytest.mark.skipif(bool(_REPLAY), reason="one seed is replayed")
def test_a_kill_every_second_for_minutes(tmp_path, own_server):
    """The long form: a store restarted every ten seconds, a broker killed every thirty."""
    store, broker = own_server("postgres"), own_server("redis")
    with drilled(tmp_path, store, broker, users=100) as drill:
        drill.stage.do("faults", profile="slow_answer", delay_after=0.3, share=0.3)
        for second in range(1, SECONDS + 1):
            time.sleep(1)
            drill.kill_one()
            if second % 7 == 0:
                drill.freeze_one(drill.dice.uniform(0.1, 3))
            if second % 10 == 0:
                store.stop()
                store.start()
            if second % 30 == 0:
                broker.kill()
                broker.start()
        drill.stage.do("clear_faults")
        calm_after = drill.all_renew()
        time.sleep(60)  # strict tokens are asked once more after half a minute
        report = judge(drill)
    print(f"all renewed {calm_after:.1f} s after the last blow: {report}")
    assert report.spent_twice == report.false_verdicts == report.lost_of_kept == 0, report
    assert report.lost_of_strict <= report.never_durable, report
