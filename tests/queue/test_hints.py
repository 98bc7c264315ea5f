"""A hint never blocks, never raises, and never piles up."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from worker.queue.hints import CeleryHints

TICK = timedelta(seconds=5)


class Memory:
    """The store's memory of hints, in memory."""

    def __init__(self):
        self.until = {}

    def take(self, subject, now, for_):
        free = self.until.get(subject, now) <= now
        if free:
            self.until[subject] = now + for_
        return free

    def clear(self, subject):
        self.until.pop(subject, None)


class Broker:
    def __init__(self, block=None, fails=False):
        self.sent, self.options, self.block, self.fails = [], [], block, fails

    def send_task(self, name, **options):
        if self.block:
            self.block.wait(10)
        if self.fails:
            raise OSError("broker away")
        self.sent.append(name)
        self.options.append(options)


@pytest.fixture
def clock():
    class Clock:
        now = datetime(2026, 1, 1, tzinfo=UTC)

    return Clock()


def hints(broker, clock, memory=None):
    return CeleryHints(broker, memory or Memory(), now=lambda: clock.now, tick=TICK)


def test_at_most_one_hint_per_subject_is_outstanding(clock):
    broker, memory = Broker(), Memory()
    for _ in range(5):  # five processes
        process = hints(broker, clock, memory)
        process.renew("github")
        process.renew("waad")
        process.close()
    assert sorted(broker.sent) == ["renew.github", "renew.waad"]


def test_a_hint_lost_by_the_broker_costs_a_tick(clock):
    broker, memory = Broker(), Memory()
    for _ in range(2):
        sender = hints(broker, clock, memory)
        sender.renew("github")
        sender.close()
        clock.now += TICK
    assert broker.sent == ["renew.github", "renew.github"]


def test_work_that_falls_due_while_a_hint_is_worked_on_gets_its_own(clock):
    broker, memory = Broker(), Memory()
    first = hints(broker, clock, memory)
    first.events()
    first.close()
    first.begun("events.process")
    second = hints(broker, clock, memory)
    second.events()
    second.close()
    assert broker.sent == ["events.process"] * 2


def test_a_hint_carries_nothing_and_grows_old(clock):
    broker = Broker()
    sender = hints(broker, clock)
    sender.renew("github")
    sender.close()
    (options,) = broker.options
    assert "args" not in options
    assert "kwargs" not in options
    assert options["argsrepr"] == options["kwargsrepr"] == ""
    assert options["expires"] == 60
    assert options["queue"] == "renew.github"


def test_a_broker_that_hangs_blocks_nobody(clock):
    block = threading.Event()
    sender = hints(Broker(block=block), clock)
    done = threading.Event()

    def ask():
        for number in range(100):
            sender.renew(f"p{number % 7}")
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    assert done.wait(1)
    block.set()
    sender.close()


@pytest.mark.parametrize("broken", ["broker", "store"])
def test_a_hint_never_raises(clock, broken):
    class Away:
        def take(self, *_):
            raise OSError("store away")

        def clear(self, *_):
            raise OSError("store away")

    sender = hints(Broker(fails=True), clock, Away() if broken == "store" else None)
    sender.renew("github")
    sender.begun("renew.github")
    sender.close()


def test_closing_while_the_first_hint_begins_waits_for_it(clock, monkeypatch):
    """Two threads: one starts the sender, the other ends the process."""
    begins, goes = threading.Event(), threading.Event()

    class Slow(threading.Thread):
        def start(self):
            begins.set()
            goes.wait(10)
            super().start()

    sender = hints(Broker(), clock)
    asks = threading.Thread(target=sender.events)
    ends = threading.Thread(target=sender.close)
    monkeypatch.setattr(threading, "Thread", Slow)
    asks.start()
    begins.wait(10)
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    ends.start()
    ends.join(0.2)
    goes.set()
    for thread in (asks, ends):
        thread.join(10)
    assert failed == []
