"""What one host bears: growing slowly, halving at once, pausing, probing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.exchange import Limits
from worker.renewal.pacing import Pace


def pace(concurrency=100, per_second=1000.0):
    return Pace(Limits(concurrency=concurrency, per_second=per_second))


def test_places_left_unused_for_a_moment_are_taken_at_once_and_older_ones_are_lost():
    it = pace(per_second=100.0)
    assert it.slot(0.0) == 0.0
    later = [it.slot(10.0) for _ in range(4)]
    assert later == pytest.approx([0.0, 0.0, 0.0, 0.01])


def test_it_doubles_each_round_until_the_first_trouble_and_then_grows_by_one():
    it = pace()
    for _ in range(10):
        it.answered()
    assert it.limit == 20
    it.trouble(0.0)
    assert it.limit == 10
    for _ in range(11):
        it.answered()
    assert it.limit == 11


def test_a_burst_of_troubles_halves_once():
    it = pace()
    for _ in range(4):
        it.throttled(0.5)
    assert it.limit == 5


def test_five_troubles_in_a_row_open_the_circuit_and_failed_probes_keep_it_open_longer():
    it = pace()
    assert [it.trouble(0.0) for _ in range(5)] == [None] * 4 + [5.0]
    assert it.shut_until(4.9) == 5.0
    assert it.shut_until(5.0) is None
    assert it.limit == 1  # half open: one probe
    assert it.trouble(5.1) == 15.1
    assert it.trouble(16.0) == 36.0
    it.answered()
    assert it.limit > 1


def test_an_answer_from_before_the_pause_does_not_make_it_longer():
    it = pace()
    for _ in range(5):
        it.trouble(0.0)
    assert it.trouble(0.1) is None
    assert it.shut_until(1.0) == 5.0


def test_too_many_requests_halve_the_rate_and_answers_bring_it_back():
    it = pace(per_second=10.0)
    it.throttled(0.0)
    it.slot(0.0)
    assert it.slot(0.0) == 0.2
    for _ in range(100):
        it.answered()
    it.slot(100.0)
    second, third = it.slot(100.0), it.slot(100.0)
    assert third - second == pytest.approx(0.1)


@given(
    concurrency=st.integers(1, 500),
    acts=st.lists(st.sampled_from(["answered", "trouble", "throttled"]), max_size=200),
)
def test_the_declared_concurrency_is_never_passed_and_one_is_always_allowed(concurrency, acts):
    it = pace(concurrency=concurrency)
    for now, act in enumerate(acts):
        it.answered() if act == "answered" else getattr(it, act)(float(now))
        assert 1 <= it.limit <= concurrency
