"""What the storm may not do, and when it may not judge: or it would blame the product for it."""

from __future__ import annotations

from types import SimpleNamespace

from tests.simulation import storm
from tests.simulation.storm import Storm
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault

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
