"""Endings are written in groups, and what happened is counted in groups."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

import worker.renewal.committer
import worker.renewal.counting
from tests.simulation.virtual_time import run
from tests.simulation.world import Process
from worker.domain.attempt import Postponed, Settled
from worker.domain.exchange import NotSent
from worker.domain.grant import AttemptId, GrantId
from worker.renewal.committer import GATHER, GATHER_MANY, GROUP, MANY, Committer
from worker.renewal.counting import Counts


class Gathering:
    """A committer whose clock tells how long it would wait; meanwhile, more comes each time."""

    def __init__(self, *comes):
        self.comes, self.waits, self.groups = list(comes), [], []
        self.committer = Committer(
            self, None, clock=self, offload=self._offload, settled=lambda group, settled: None
        )

    async def sleep(self, seconds):
        self.waits.append(seconds)
        if self.comes:
            self.committer.put(*(_ending() for _ in range(self.comes.pop(0))))

    def settle(self, group):
        self.groups.append(len(group))
        if self.comes:  # one comes while others are being written
            self.committer.put(_ending())
        return Settled(fates={}, counter=None)

    async def _offload(self, function, *args):
        return function(*args)

    def run(self):
        async def until_written():
            self.committer.put(_ending())
            await self.committer.flushed()

        asyncio.run(until_written())
        return self


def _ending():
    return Postponed(
        grant=GrantId(uuid4()),
        attempt=AttemptId(uuid4()),
        fence=1,
        code="host_paused",
        due_at=datetime(2026, 1, 1, tzinfo=UTC),
        failures=0,
    )


def test_endings_are_gathered_longer_while_many_come():
    few = Gathering(MANY - 2, MANY - 2, 0).run()
    assert few.waits == [GATHER] * 3
    many = Gathering(MANY - 1, GROUP, 0, 0).run()
    assert many.waits == [GATHER, GATHER_MANY, GATHER_MANY, GATHER]
    assert many.groups == [MANY, GROUP, 1, 2, 1]


def test_a_count_that_cannot_be_told_is_not_told_twice_and_not_kept(monkeypatch):
    counts = Counts("github")
    counts.exchanged(NotSent(reason="connect"), 0.1)
    counts.verdicts["acme", "renewed"] += 1
    monkeypatch.setattr(worker.renewal.counting, "observe_all", _breaks)
    with pytest.raises(ZeroDivisionError):
        counts.tell()
    assert not any((counts.fates, counts.verdicts, counts.seconds))
    told = REGISTRY.get_sample_value(
        "evergrant_renewals_total", {"provider": "github", "verdict": "renewed"}
    )
    monkeypatch.undo()
    counts.tell()
    assert told == REGISTRY.get_sample_value(
        "evergrant_renewals_total", {"provider": "github", "verdict": "renewed"}
    )


def _breaks(histogram, values):
    raise ZeroDivisionError


def test_a_store_that_takes_endings_slowly_is_asked_for_no_more_claims(world, monkeypatch):
    """Its claims are quick and its writes are not; every ending holds tokens, in memory."""
    monkeypatch.setattr(worker.renewal.committer, "BACKLOG", 10)

    async def story():
        w = world()
        for n in range(100):
            w.plant(f"r{n}")
        process, most = w.start(), 0

        async def slowly(call, *args, **kwargs):
            nonlocal most
            await asyncio.sleep(5)
            most = max(most, len(process.engine._live))
            return await Process.offload(process, call, *args, **kwargs)

        process.engine._committer._offload = slowly
        assert await process.drain() == {"renewed": 100}
        assert most <= 60

    run(story())
