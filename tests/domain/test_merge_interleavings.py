"""T10: in no order of logins, renewals and pulls does an older token come over a newer one."""

from __future__ import annotations

import pytest

from tests.domain.merge_world import Rules, World, chains, interleavings, wander

ALL = 69_300  # 11! / (2! 2! 4! 3!)
MUTANTS = {
    # what breaks, and how many of all interleavings go wrong and miss the newest login for it
    "no pull fence": (Rules(fenced=False), 1_650, 330),
    "every copy is taken": (Rules(remembers="none"), 15_391, 124),
    "only the last copy remembered, no fence": (
        Rules(fenced=False, remembers="last"),
        10_780,
        1045,
    ),
}


def counts(rules: Rules) -> tuple[int, int, int]:
    """Interleavings in all, with a wrong state, with the newest login missed."""
    ends = list(interleavings(rules, chains(), World()))
    return len(ends), sum(bool(end.wrong) for end in ends), sum(end.missed for end in ends)


def test_no_interleaving_of_logins_renewals_and_pulls_goes_wrong():
    assert counts(Rules()) == (ALL, 0, 0)


@pytest.mark.parametrize(("rules", "wrong", "missed"), MUTANTS.values(), ids=MUTANTS)
def test_the_enumeration_sees_what_the_rules_are_for(rules, wrong, missed):
    assert counts(rules) == (ALL, wrong, missed)


def wrong_in(seeds: range, rules: Rules) -> int:
    ends = (wander(seed, rules) for seed in seeds)
    return sum(bool(end.wrong) or end.missed for end in ends)


def test_no_longer_life_at_random_goes_wrong_either():
    assert wrong_in(range(10_000), Rules()) == 0


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_no_longer_life_at_random_goes_wrong_in_a_million():
    assert wrong_in(range(1_000_000), Rules()) == 0


@pytest.mark.parametrize("rules", [Rules(fenced=False), Rules(remembers="none")])
def test_longer_lives_see_a_broken_rule_too(rules):
    assert wrong_in(range(200), rules) > 0
