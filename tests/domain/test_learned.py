"""What refusals and answers teach makes us more careful, never less."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from worker.domain.exchange import Rotation
from worker.domain.learned import (
    REPORTS_KEPT,
    REPORTS_NEEDED,
    SHORTEST_LIFE,
    Change,
    learned_from,
    life_from,
    shorter,
    with_report,
)
from worker.domain.rotation import rules_for

AGES = st.floats(0, 86_400 * 90)
REPORTS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), AGES, max_size=REPORTS_KEPT)
TRUE_LIFE = SHORTEST_LIFE.total_seconds()


@given(refused=REPORTS, grant=st.text("abcdefgh", min_size=1, max_size=4), age=AGES)
def test_a_grant_has_one_report_the_latest_and_few_are_kept(refused, grant, age):
    found = with_report(refused, grant, age)
    assert list(found.items())[-1] == (grant, age)
    assert len(found) <= REPORTS_KEPT
    assert {g: a for g, a in found.items() if g != grant}.items() <= refused.items()


@given(
    life=st.floats(TRUE_LIFE, 86_400 * 30),
    late=st.lists(st.floats(0, 86_400), min_size=REPORTS_NEEDED - 1, max_size=12),
    lie=AGES,
)
def test_one_liar_among_many_cannot_make_us_renew_without_end(life, late, lie):
    """Tokens are refused after their end, never before it; one app's 401 has another reason."""
    honest = {f"g{n}": life + delay for n, delay in enumerate(late)}
    found = life_from(honest | {"liar": lie})
    assert found is not None
    assert found >= timedelta(seconds=life) - timedelta(microseconds=1)
    assert found <= timedelta(seconds=max(honest.values())) + timedelta(microseconds=1)


@given(refused=REPORTS)
def test_too_few_reports_teach_nothing_and_none_more_than_the_shortest_life(refused):
    found = life_from(refused)
    assert (found is None) == (len(refused) < REPORTS_NEEDED)
    assert found is None or found >= SHORTEST_LIFE


LIVES = st.none() | st.timedeltas(timedelta(seconds=1), timedelta(days=90))


@given(declared=LIVES, learned=LIVES)
def test_what_is_learned_never_makes_a_life_longer_than_declared(declared, learned):
    found = shorter(declared, learned)
    assert declared is None or found <= declared
    assert learned is None or found <= learned
    assert (found is None) == (declared is None and learned is None)


@given(row=st.none() | st.fixed_dictionaries({}, optional={"refused": REPORTS, "x": st.none()}))
def test_whatever_lies_in_the_row_is_read(row):
    assert learned_from(row).rotating == frozenset()


def test_an_entry_that_was_seen_to_rotate_is_remembered():
    assert learned_from({Change.ROTATES: {"google-oauth2": "2026-11-28"}}).rotating == {
        "google-oauth2"
    }


STRICTNESS = [Rotation.N, Rotation.M, Rotation.G, Rotation.S, Rotation.F]


@given(rotation=st.sampled_from(STRICTNESS), grace=st.floats(0, 86_400 * 30))
def test_an_answer_that_rotated_never_makes_a_class_laxer(rotation, grace):
    before = rules_for(rotation, grace_seconds=grace, rotated_before=False)
    after = rules_for(rotation, grace_seconds=grace, rotated_before=True)
    assert STRICTNESS.index(after.rotation) >= STRICTNESS.index(before.rotation)
    assert after.window <= before.window
