"""A provider that answers with other scopes than before: the truth is told, nothing is invented."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.planted import row_of
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault
from worker.domain.exchange import Rotation

BEFORE = "calendar.read mail.read"
TOLD = {
    "fewer": ("mail.read", "mail.read"),
    "more": (f"{BEFORE} files.write", f"{BEFORE} files.write"),
    "none at all": (None, BEFORE),  # RFC 6749 §5.1: left out means unchanged
}


@pytest.mark.parametrize(("told", "held"), TOLD.values(), ids=TOLD)
def test_the_scope_held_is_the_scope_told(world, told, held):
    def scoped(answer):
        body = json.loads(answer.body)
        body.pop("scope", None)
        return replace(answer, body=json.dumps(body | ({"scope": told} if told else {})).encode())

    async def story():
        w = world(Rotation.F)
        w.network.faults = lambda _: Fault(mangle=scoped)
        grant = w.plant(scope=BEFORE)
        assert await w.start().drain() == {"renewed": 1}
        assert row_of(w.store, grant).scope == held

    run(story())
