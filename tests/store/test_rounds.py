"""A reconcile's round outlives the process that began it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.clock import T0
from worker.store.rounds import RoundRepository

NIGHT = timedelta(hours=20)
LEASE = timedelta(minutes=5)


@pytest.fixture
def rounds(engine: Any) -> RoundRepository:
    return RoundRepository(engine)


def hold(rounds: RoundRepository, holder: str, at: Any = T0) -> str | None:
    return rounds.hold("acme", holder, now=at, until=at + LEASE)


def save(rounds: RoundRepository, holder: str, after: str | None, **counts: int) -> bool:
    return rounds.save("acme", holder, after=after, counts=counts, now=T0, until=T0 + LEASE)


def test_nothing_is_under_way_before_a_round_begins(rounds):
    assert hold(rounds, "a") is None
    assert rounds.latest("acme") is None


def test_a_killed_process_is_followed_by_another_after_its_last_checkpoint(rounds):
    assert rounds.begin("acme", now=T0, every=NIGHT)
    assert hold(rounds, "a") == ""
    assert save(rounds, "a", "user-7", read=7, missing_here=1)
    assert hold(rounds, "b") is None  # `a` may yet be at it
    assert hold(rounds, "b", T0 + LEASE) == "user-7"
    assert not save(rounds, "a", "user-9", read=2)  # it was not dead, only slow
    assert save(rounds, "b", None, read=3)
    latest = rounds.latest("acme")
    assert latest
    assert (latest.ended_at, latest.counts) == (T0, {"read": 10, "missing_here": 1})
    assert hold(rounds, "b") is None


def test_a_round_is_not_begun_twice_in_a_night(rounds):
    assert rounds.begin("acme", now=T0, every=NIGHT)
    assert not rounds.begin("acme", now=T0 + 2 * NIGHT, every=NIGHT)  # still under way
    hold(rounds, "a")
    save(rounds, "a", None)
    assert not rounds.begin("acme", now=T0 + NIGHT / 2, every=NIGHT)
    assert rounds.begin("acme", now=T0 + NIGHT, every=NIGHT)


def test_one_begun_anew_looks_back_as_far_as_the_one_that_it_breaks_off(rounds):
    """Who logged in since then and is a stranger here may not have been listed yet."""
    rounds.begin("acme", now=T0, every=NIGHT)
    hold(rounds, "a")
    save(rounds, "a", None)
    rounds.begin("acme", now=T0 + NIGHT, every=NIGHT)
    for minutes in (1, 2):
        now = T0 + NIGHT + timedelta(minutes=minutes)
        assert rounds.begin("acme", now=now, every=NIGHT, anew=True)
    latest = rounds.latest("acme")
    assert latest
    assert latest.since == T0


def test_one_begun_anew_takes_the_work_from_whoever_is_at_it(rounds):
    """Events are lost that told of users who are read already."""
    rounds.begin("acme", now=T0, every=NIGHT)
    hold(rounds, "a")
    save(rounds, "a", "user-7")
    assert rounds.begin("acme", now=T0, every=NIGHT, anew=True)
    assert not save(rounds, "a", "user-9")
    assert hold(rounds, "b") == ""
