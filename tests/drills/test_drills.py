"""Real workers, killed; a store that goes; a broker that forgets. The providers keep the score.

The short form is in the suite; `make drill` plays the long one.
"""

from __future__ import annotations

import os
import time
from itertools import count, cycle

import pytest

from tests.drills.blows import BLOWS
from tests.drills.drill import drilled
from tests.drills.judging import judge

SECONDS = int(os.environ.get("EVERGRANT_DRILL_SECONDS", "300"))  # of blows, in the long form
_REPLAY = os.environ.get("EVERGRANT_SEED", "")


@pytest.mark.timeout(400)
def test_killed_workers_a_lost_store_and_a_flushed_broker_cost_no_grant(tmp_path, own_server, tell):
    """I1, I2, I4, I8, I11 over real processes, PostgreSQL and Redis; about 15 s of CPU."""
    store, broker = own_server("postgres"), own_server("redis")
    with drilled(tmp_path, store, broker, users=4) as drill:
        drill.wait_for("renewals flow", lambda: drill.renewals() > 10)
        drill.stage.do("faults", profile="slow_answer", delay_after=0.5, for_seconds=10)
        drill.wait_for_strict_exchange()
        drill.kill_one()
        drill.kill_one()
        broker.kill()
        drill.strike("freeze_a_worker")
        drill.kill_one()
        drill.strike("restart_the_store")
        broker.start()  # empty
        drill.strike("freeze_the_broker")
        drill.strike("fill_a_workers_disk")
        drill.strike("fill_the_stores_disk")
        calm_after = drill.all_renew()
        report = judge(drill)
    tell(f"all renewed {calm_after:.1f} s after the last blow:\n{report}")
    report.check(exactly=False)


@pytest.mark.drill
@pytest.mark.skipif(bool(_REPLAY), reason="one seed is replayed")
@pytest.mark.parametrize("broker_kind", ["redis", "rabbitmq"])
def test_a_kill_every_second_for_minutes(tmp_path, own_server, broker_kind, tell):
    """The long form: a kill a second, a store that goes every ten, and every other blow in turn."""
    store, broker = own_server("postgres"), own_server(broker_kind)
    with drilled(tmp_path, store, broker, users=100) as drill:
        drill.stage.do("faults", profile="slow_answer", delay_after=0.3, share=0.3)
        every = cycle(BLOWS)
        ends = time.monotonic() + SECONDS
        for second in count(1):
            time.sleep(1)
            drill.kill_one()
            if second % 10 == 0:
                drill.strike(drill.dice.choice(["restart_the_store", "kill_the_store"]))
            elif second % 4 == 0:
                drill.strike(next(every))
            if time.monotonic() > ends:
                break
        drill.stage.do("clear_faults")
        calm_after = drill.all_renew()
        drill.all_told()
        drill.rest()
        report = judge(drill)
    tell(f"all renewed {calm_after:.1f} s after the last blow:\n{report}")
    assert set(report.blows) == set(BLOWS), report.blows
    report.check(exactly=True)
