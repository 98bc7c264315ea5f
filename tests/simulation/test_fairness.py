"""What the storm may not do, and when it may not judge: or it would blame the product for it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tests.simulation import storm
from tests.simulation.disks import Disk
from tests.simulation.provider import HOUR
from tests.simulation.storm import Storm, play
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault
from worker.domain.rotation import HOLD, QUIET

STRICT = 5  # a seed of class S, whose answers may take two minutes


def test_the_judge_waits_for_what_is_under_way(monkeypatch):
    """An answer on its way holds a successor that nobody can have yet."""
    in_flight = []

    class Looks:
        def __init__(self, world, _story):
            self._world = world

        def judge(self):
            in_flight.append(self._world.network.open.total())

    monkeypatch.setattr(storm, "Judge", Looks)
    played = Storm(STRICT, renewals=0)
    played.world.ledger.life = 150.0
    played.world.network.faults = lambda _: Fault(back=100.0)
    run(played.play())
    assert in_flight == [0]


def test_a_living_token_is_called_dead_once_at_most():
    """I8 asks for two refusals a minute apart: they are proof, and the storm may not forge it."""
    story = Storm(STRICT, renewals=0).story
    story._dice = SimpleNamespace(random=lambda: 0.0815, uniform=lambda low, high: low)
    first, second = (story.fault(SimpleNamespace(body=b"g1.7")) for _ in range(2))
    assert first.answer is not None
    assert second.answer is None


LONG, SHORT = HOLD.total_seconds() + 1, QUIET.total_seconds() + 1


@pytest.mark.parametrize(
    ("spent_after", "over", "nodes", "living", "excused"),
    [
        (LONG, False, ["n2"], [], True),
        (SHORT, True, ["n2"], [], True),
        (SHORT, False, ["n2"], [], False),  # the access token lives, and the hold is long
        (SHORT - 10, True, ["n2"], [], False),
        (LONG, False, ["n2"], ["n2"], False),  # somebody there could have told
        (LONG, False, ["n1", "n2"], ["n1"], False),  # it lay in reach as well
        (LONG, False, [], ["n1"], False),  # it lies nowhere: another fault
    ],
)
def test_a_second_spend_is_excused_only_past_the_hold_and_out_of_reach(
    spent_after, over, nodes, living, excused
):
    async def excuses() -> bool:
        played = Storm(STRICT, renewals=0)
        world, story = played.world, played.story
        story.plant(1)
        (grant,) = story.grants
        await asyncio.sleep(2 * HOUR if over else 0)
        world.ledger.refresh("g0", 0.0)
        successor = world.fingerprint(world.ledger.families["g0"].newest)
        came = SimpleNamespace(grant=grant, rt_fp=successor)
        world.disks = {node: Disk(entries={"p": [came]}) for node in nodes}
        world.processes = [SimpleNamespace(node=node, dead=False) for node in living]
        world.ledger.refresh("g0", spent_after)
        assert world.ledger.double_spends == ["g0"]
        return story.past_hold == {"g0"}

    assert run(excuses()) is excused


@pytest.mark.parametrize("seed", [1886, 4720])
def test_seeds_that_were_red_once(seed):
    """A node away past the hold, for which the product was blamed; and a successor that a failover
    let come before its parent, which was then sent again. Other code may play another story."""
    play(seed, renewals=200)
