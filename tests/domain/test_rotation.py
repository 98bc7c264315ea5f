"""The class table: how long we wait, lease and hold, and who may send a refresh token again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.exchange import Rotation
from worker.domain.grant import AttemptId, EarlierAttempt
from worker.domain.rotation import (
    SHORTEST_LEASE,
    held_until,
    may_retake,
    on_trust,
    resend_after,
    rules_for,
    unproven_until,
)

T0 = datetime(2026, 11, 23, 12, tzinfo=UTC)
classes = st.sampled_from(Rotation)
graces = st.floats(0, 3600)


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def rules(rotation: Rotation, grace: float = 0.0, *, rotated_before: bool = False):
    return rules_for(rotation, grace_seconds=grace, rotated_before=rotated_before)


def attempt(*, uncertain: bool = False, unproven: float | None = None) -> EarlierAttempt:
    return EarlierAttempt(
        attempt=AttemptId(uuid4()),
        node="n1",
        process="1",
        began_at=T0,
        token_since=T0,
        uncertain=uncertain,
        unproven_until=None if unproven is None else T0 + seconds(unproven),
    )


def retake(
    rotation: Rotation,
    age: float,
    *,
    grace: float = 0.0,
    gone: bool = False,
    alive: bool = False,
    told: bool = False,
    access_ends: float | None = None,
) -> bool:
    its = rules(rotation, grace)
    return may_retake(
        its,
        attempt(uncertain=told),
        lease_until=T0 + seconds(its.lease),
        gone=gone,
        alive=alive,
        access_expires_at=None if access_ends is None else T0 + seconds(access_ends),
        now=T0 + seconds(age),
    )


@pytest.mark.parametrize(
    ("rotation", "grace", "read_timeout"),
    [
        (Rotation.N, 0, 15),
        (Rotation.M, 0, 15),
        (Rotation.G, 6, 4),
        (Rotation.G, 30, 10),
        (Rotation.G, 600, 30),
        (Rotation.S, 0, 120),
        (Rotation.F, 0, 120),
    ],
)
def test_strict_providers_are_waited_for_and_lenient_ones_are_not(rotation, grace, read_timeout):
    assert rules(rotation, grace).read_timeout == read_timeout


@given(rotation=classes, grace=graces, rotated_before=st.booleans())
def test_every_lease_outlives_the_answer_it_covers(rotation, grace, rotated_before):
    its = rules(rotation, grace, rotated_before=rotated_before)
    assert its.read_timeout + 2 <= its.lease <= its.read_timeout + 10
    assert its.lease >= SHORTEST_LEASE


@given(rotation=classes, grace=graces)
def test_what_a_grant_has_shown_makes_its_rules_stricter_never_laxer(rotation, grace):
    before = rules(rotation, grace)
    after = rules(rotation, grace, rotated_before=True)
    assert after.read_timeout >= before.read_timeout
    assert after.window <= before.window


def test_a_token_said_never_to_rotate_is_strict_once_it_has():
    assert rules(Rotation.N, rotated_before=True).rotation is Rotation.F


def test_a_grace_that_nobody_knows_is_none():
    assert rules(Rotation.G, 0).rotation is Rotation.F


@pytest.mark.parametrize("rotation", [Rotation.N, Rotation.M])
def test_a_token_that_stays_valid_is_retaken_when_the_lease_ends(rotation):
    assert not retake(rotation, 22.9)
    assert retake(rotation, 23)
    assert retake(rotation, 1, gone=True)


def test_within_the_grace_a_token_is_retaken_at_once_and_later_as_a_strict_one():
    assert retake(Rotation.G, 2, grace=30, gone=True)
    assert not retake(Rotation.G, 17, grace=30)  # its lease still runs
    assert retake(Rotation.G, 24, grace=30)
    assert not retake(Rotation.G, 26, grace=30)  # 30 s − half the read timeout have passed
    assert not retake(Rotation.G, 26, grace=30, gone=True)  # not yet quiet
    assert retake(Rotation.G, 31, grace=30, gone=True)
    assert not retake(Rotation.G, 599, grace=30)
    assert retake(Rotation.G, 600, grace=30)


@pytest.mark.parametrize("rotation", [Rotation.S, Rotation.F])
def test_a_strict_token_waits_for_proof_and_quiet_or_for_the_hold(rotation):
    assert not retake(rotation, 29, gone=True)
    assert retake(rotation, 30, gone=True)
    assert retake(rotation, 30, told=True)
    assert not retake(rotation, 599)
    assert retake(rotation, 600)


def test_the_hold_ends_a_minute_before_the_access_token_but_never_within_the_lease():
    assert not retake(Rotation.F, 239, access_ends=300)
    assert retake(Rotation.F, 240, access_ends=300)
    assert not retake(Rotation.F, 127, access_ends=100)
    assert retake(Rotation.F, 128, access_ends=100)


def test_an_attempt_taken_over_without_proof_is_remembered_for_a_hold():
    assert unproven_until(attempt(), gone=True) is None
    assert unproven_until(attempt(uncertain=True), gone=False) is None
    assert unproven_until(attempt(), gone=False) == T0 + seconds(600)
    assert unproven_until(attempt(unproven=900), gone=True) == T0 + seconds(900)
    assert unproven_until(attempt(unproven=900), gone=False) == T0 + seconds(900)
    assert unproven_until(attempt(unproven=100), gone=False) == T0 + seconds(600)
    assert held_until(None, T0) is None
    assert held_until(T0, None) == T0
    assert held_until(T0 + seconds(600), T0 + seconds(300)) == T0 + seconds(240)


@given(rotation=classes, grace=graces, age=st.floats(0, 1e6), gone=st.booleans())
def test_only_the_end_of_a_hold_is_trust(rotation, grace, age, gone):
    now = T0 + seconds(age)
    trusted = on_trust(rules(rotation, grace), attempt(), gone=gone, now=now)
    assert trusted == (not gone and age >= rules(rotation, grace).window)


@given(rotation=classes, grace=graces, age=st.floats(0, 1e6))
def test_no_clock_takes_a_claim_from_a_process_that_lives_on_this_host(rotation, grace, age):
    assert not retake(rotation, age, grace=grace, alive=True)


@given(rotation=classes, grace=graces, sent=st.integers(1, 9), age=st.floats(0, 1000))
def test_no_attempt_sends_a_token_more_than_four_times(rotation, grace, sent, age):
    its = rules(rotation, grace)
    wait = resend_after(its, sent=sent, age=age)
    assert wait is None or (sent < 4 and wait >= 0.25)


def test_an_unanswered_strict_token_is_sent_once_more_when_the_provider_has_had_half_a_minute():
    strict = rules(Rotation.F)
    assert resend_after(strict, sent=1, age=5.0) == 25.0
    assert resend_after(strict, sent=1, age=120.0) == 0.25
    assert resend_after(strict, sent=2, age=150.0) is None


def test_inside_the_grace_it_is_sent_again_in_haste():
    grace = rules(Rotation.G, 30)
    assert [resend_after(grace, sent=n, age=1.0) for n in (1, 2, 3, 4)] == [0.25, 0.5, 1.0, None]
    assert resend_after(grace, sent=1, age=26.0) == 4.0
