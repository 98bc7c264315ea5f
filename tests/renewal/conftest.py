"""A world in virtual time: `world(rotation)` and `run(coroutine)`."""

from __future__ import annotations

import pytest

from tests.simulation.provider import Ledger
from tests.simulation.world import World
from worker.domain.exchange import Rotation


@pytest.fixture
def world(vault):
    """`world(Rotation.F)`; further words go to the provider's `Ledger`."""

    def make(rotation=Rotation.F, **ledger):
        return World(Ledger(rotation, **ledger), vault)

    return make
