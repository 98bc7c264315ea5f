"""The tick hints at what is due; a worker takes what nobody took."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from worker.bootstrap.tick import SelfSweep, tick
from worker.domain.errors import TransientError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Line:
    provider: str
    since: datetime


@dataclass
class Schedule:
    lines: list[Line] = field(default_factory=list)
    events_since: datetime | None = None
    away: bool = False

    def due(self):
        if self.away:
            raise TransientError("store: away")
        return self.lines

    def events_due(self, now):
        return self.events_since is not None and self.events_since <= now

    def notices_due(self, now):
        return False


class Hints:
    def __init__(self):
        self.sent = []

    def renew(self, provider):
        self.sent.append(f"renew.{provider}")

    def events(self):
        self.sent.append("events.process")

    def task(self, name):
        self.sent.append(name)


def ago(seconds):
    return NOW - timedelta(seconds=seconds)


def test_each_provider_with_due_work_gets_one_hint_and_the_others_none():
    lines = [Line("github", ago(1)), Line("github", ago(5)), Line("waad", ago(-5))]
    hints = Hints()
    assert tick(Schedule(lines), hints, NOW) == {"providers": 1, "events": 0, "notices": 0}
    assert hints.sent == ["renew.github"]


def test_waiting_events_get_a_hint():
    hints = Hints()
    tick(Schedule(events_since=ago(0)), hints, NOW)
    assert hints.sent == ["events.process"]


@pytest.fixture
def sweeping():
    class Clock:
        def now(self):
            return NOW

    async def offload(call, *args):
        return call(*args)

    done = []

    async def renew(provider):
        done.append(provider)

    async def sweep():
        pass

    async def events():
        done.append("events")

    def make(schedule):
        return SelfSweep(
            schedule=schedule, clock=Clock(), offload=offload, every=timedelta(seconds=5),
            sweep=sweep, renew=renew, events=events, notices=events,
        )  # fmt: skip

    return make, done


async def test_work_left_alone_is_taken_without_a_hint(sweeping):
    """The broker or the scheduler may be dead for good."""
    make, done = sweeping
    schedule = Schedule([Line("github", ago(11)), Line("waad", ago(9))], events_since=ago(11))
    assert await make(schedule).once() == 2
    assert done == ["github", "events"]


async def test_work_just_due_is_left_to_the_tick(sweeping):
    make, done = sweeping
    await make(Schedule([Line("github", ago(9))], events_since=ago(9))).once()
    assert done == []
