"""Each mechanism is taken out of a copy of the house, and a test that names it turns red.

What a test cannot see missing it does not protect. `make drill` runs it: about two minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_REPLAY = os.environ.get("EVERGRANT_SEED", "")
RENEWAL, STORE = "tests/renewal", "tests/store"
RETAKEN = f"{RENEWAL}/test_retaken.py::test_a_takeover_in_the_grace"


@dataclass(frozen=True)
class Mutation:
    """One mechanism without which `tests` must fail."""

    file: str
    there: str
    instead: str
    tests: tuple[str, ...]


MUTATIONS = {
    "fence": Mutation(
        "worker/store/moving.py",
        '        GrantRow.fence == bindparam("of_fence"),\n'
        '        GrantRow.attempt == bindparam("of_attempt"),\n',
        '        bindparam("of_fence") == bindparam("of_fence"),\n'
        '        bindparam("of_attempt") == bindparam("of_attempt"),\n',
        (f"{STORE}/test_settling.py::test_a_lost_fence_makes_a_candidate_never_garbage[sqlite]",),
    ),
    "gate": Mutation(
        "worker/renewal/exchange.py",
        "            now < prepared.send_before\n",
        "            True\n",
        (f"{RENEWAL}/test_uncertain.py::test_after_the_lease_no_byte_leaves",),
    ),
    "gate of deletions": Mutation(
        "worker/renewal/exchange.py",
        "            and (prepared.claim.grant, prepared.claim.fence) not in self.abandoned\n",
        "",
        (
            f"{RENEWAL}/test_engine.py"
            "::test_a_grant_deleted_by_another_process_after_its_claim_is_not_sent",
        ),
    ),
    "journal": Mutation(
        "worker/renewal/exchange.py",
        "            self._journaled(brought, await self._journal.append(brought))\n",
        "            pass\n",
        (
            f"{RENEWAL}/test_crashes.py"
            "::test_a_strict_token_on_another_node_is_held_until_its_journal_was_replayed",
        ),
    ),
    "candidates": Mutation(
        "worker/store/settling.py",
        "        candidates.keep(group.db, one, why, group.now, held_by=_holder(group.db, one))\n",
        "",
        (f"{RENEWAL}/test_uncertain.py::test_a_lost_fence_still_hands_in_what_it_got",),
    ),
    "pull fence": Mutation(
        "worker/domain/merge.py",
        "    if fence <= ours.pull_fence:\n",
        "    if False:\n",
        (
            f"{STORE}/test_merging.py::test_two_users_pulls_of_one_identity_keep_their_order[sqlite]",
        ),
    ),
    "hold": Mutation(
        "worker/domain/rotation.py",
        "HOLD = timedelta(seconds=600)",
        "HOLD = timedelta(seconds=0)",
        (
            f"{RENEWAL}/test_crashes.py"
            "::test_a_strict_token_on_another_node_is_held_until_its_journal_was_replayed",
        ),
    ),
    "who may hold a successor": Mutation(
        "worker/renewal/exchange.py",
        "        if (until := self._held_until(prepared, now)) is not None:\n",
        "        if (until := None) is not None:\n",
        (f"{RETAKEN}_proves_nothing_about_who_held_the_token_before[dies_before_the_write]",),
    ),
    "resend after a takeover": Mutation(
        "worker/renewal/exchange.py",
        "        if self._held_until(prepared, then) is not None:\n",
        "        if False:\n",
        (f"{RETAKEN}_proves_nothing_about_who_held_the_token_before[hears_no_answer]",),
    ),
    "grace since the first attempt": Mutation(
        "worker/store/claim_statements.py",
        "case((_RETAKEN, GrantRow.first_claimed_at), else_=None)",
        "None",
        (
            f"{RENEWAL}/test_retaken.py"
            "::test_a_grace_goes_on_counting_when_a_takeover_gave_its_claim_back",
        ),
    ),
    "the holder's turn": Mutation(
        "worker/renewal/trusting.py",
        "        had_its_turn = now - self._found.setdefault(attempt, now) >= TURN\n",
        "        had_its_turn = True\n",
        (f"{RENEWAL}/test_retaken.py::test_who_finds_the_store_away_begins_to_wait_anew",),
    ),
    "a lease by our own clock, too": Mutation(
        "worker/renewal/trusting.py",
        "        return had_its_turn and now - self._watched.get(attempt, now) >= lease\n",
        "        return had_its_turn\n",
        (
            f"{RENEWAL}/test_crashes.py"
            "::test_a_stores_clock_that_steps_takes_no_claim_from_the_living",
        ),
    ),
    "an end for every attempt": Mutation(
        "worker/renewal/engine.py",
        "        except Exception as error:\n            if prepared.sent:",
        "        except ZeroDivisionError as error:\n            if prepared.sent:",
        (f"{RENEWAL}/test_breaking.py",),
    ),
    "quiet time": Mutation(
        "worker/domain/rotation.py",
        "    return max(haste, QUIET.total_seconds() - age)\n",
        "    return haste\n",
        (
            f"{RENEWAL}/test_uncertain.py"
            "::test_a_strict_provider_is_given_half_a_minute_and_then_asked_once_more",
        ),
    ),
    "brake": Mutation(
        "worker/store/verdict_brake.py",
        "    return until is not None and until > now\n",
        "    return False\n",
        (f"{RENEWAL}/test_verdicts.py::test_a_mass_of_refusals_kills_nobody",),
    ),
    "second refusal": Mutation(
        "worker/domain/verdict.py",
        "    confirmed = since is not None and now - since >= confirm_after\n",
        "    confirmed = since is not None\n",
        (
            f"{RENEWAL}/test_verdicts.py"
            "::test_a_second_refusal_within_the_minute_is_not_the_last_word",
        ),
    ),
    "pinned host": Mutation(
        "worker/renewal/exchange.py",
        "        if approved != request.host:\n",
        "        if False:\n",
        (
            f"{RENEWAL}/test_engine.py"
            "::test_the_first_host_is_pinned_and_another_one_stops_the_connection",
        ),
    ),
    "look at a rollback": Mutation(
        "worker/renewal/replaying.py",
        "        behind = any(self._settling.counter(one.name) < one.counter for one in ours)\n",
        "        behind = False\n",
        (
            f"{RENEWAL}/test_crashes.py"
            "::test_a_store_that_forgot_its_last_commits_is_brought_forward_before_any_claim",
        ),
    ),
    "wait for others after a failover": Mutation(
        "worker/renewal/replaying.py",
        "        if others and now - self._waiting[1] < HOLD.total_seconds():\n",
        "        if False:\n",
        (
            f"{RENEWAL}/test_crashes.py"
            "::test_a_node_that_never_comes_back_is_waited_for_as_long_as_a_hold",
        ),
    ),
    "chains in any order": Mutation(
        "worker/store/settling.py",
        "            candidates.bridge(group.db, one)\n",
        "            pass\n",
        (
            f"{STORE}/test_settling.py::test_a_chain_of_successors_rises"
            "_in_whatever_order_journals_bring_it[sqlite-order0]",
        ),
    ),
    "claims for one history": Mutation(
        "worker/store/claims.py",
        "        if self.lineage not in (None, lineage):\n",
        "        if False:\n",
        (f"{STORE}/test_lineage.py::test_nothing_is_claimed_in_another_history[sqlite]",),
    ),
    "clock of the store": Mutation(
        "worker/renewal/store_clock.py",
        "        self._told, self._told_at = now, self._own.monotonic()\n",
        "        pass\n",
        (
            f"{RENEWAL}/test_crashes.py"
            "::test_a_worker_whose_clock_is_an_hour_off_renews_in_the_stores_time",
        ),
    ),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    place = tmp_path_factory.mktemp("house")
    for name in ("worker", "tests", "migrations"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "alembic.ini"):
        shutil.copy(ROOT / name, place / name)
    return place


def _run(house: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-x", *tests],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mechanism_is_where_the_table_says(name):
    """Told when it moves, and not at the next drill."""
    mutation = MUTATIONS[name]
    assert (ROOT / mutation.file).read_text().count(mutation.there) == 1


@pytest.mark.drill
@pytest.mark.skipif(bool(_REPLAY), reason="one seed is replayed")
@pytest.mark.parametrize("name", MUTATIONS)
def test_without_it_a_test_turns_red(house, name):
    mutation = MUTATIONS[name]
    place = house / mutation.file
    whole = place.read_text()
    intact = _run(house, mutation.tests)
    assert intact.returncode == 0, intact.stdout[-2000:]
    place.write_text(whole.replace(mutation.there, mutation.instead))
    try:
        without = _run(house, mutation.tests)
    finally:
        place.write_text(whole)
    assert without.returncode == 1, f"nothing turned red\n{without.stdout[-2000:]}"
