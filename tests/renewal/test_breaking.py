"""A fault of our own at any step strands no grant, loses no token and tells no secret.

An attempt that ended without an ending would count as alive as long as its process lives, and
nobody would renew its grant.
"""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

import worker.renewal.counting
from tests.planted import opened, row_of
from tests.renewal.test_uncertain import live
from tests.simulation.misfortunes import _with
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault, content_of, restore
from worker.domain.exchange import Rotation
from worker.renewal.pacing import Pace
from worker.vault import AesVault
from worker.vault.data_keys import GrantDataKeys

GRANTS = 3


class OursError(Exception):
    """Nobody expects it; and it quotes what it should not."""


def breaks(monkeypatch, owner, name, *, done=False):
    """The first call fails, before or after it has `done` its work."""
    whole = getattr(owner, name)
    calls = []

    def fails():
        calls.append(name)
        return len(calls) == 1

    def plain(*args, **kwargs):
        failing = fails()
        if failing and not done:
            raise OursError("at-r0 refused r0")
        result = whole(*args, **kwargs)
        if failing:
            raise OursError("at-r0 refused r0")
        return result

    async def awaited(*args, **kwargs):
        failing = fails()
        if failing and not done:
            raise OursError("at-r0 refused r0")
        result = await whole(*args, **kwargs)
        if failing:
            raise OursError("at-r0 refused r0")
        return result

    replaced = awaited if asyncio.iscoroutinefunction(whole) else plain
    replaced.__name__ = name
    monkeypatch.setattr(owner, name, replaced)
    return calls


# Where one call fails: what it is a method of, its name, and whether it had done its work.
STEPS = {
    "claiming": (lambda e: e._claims, "claim_due", False),
    "claimed": (lambda e: e._claims, "claim_due", True),
    "extending": (lambda e: e._claims, "extend", False),
    "extended": (lambda e: e._claims, "extend", True),
    "taking over": (lambda e: e._finder, "take_over", False),
    "remembering": (lambda e: e._finder, "_remember", False),
    "preparing": (lambda e: e._finder, "prepare", False),
    "resolving": (lambda e: e._resolver, "prefetch", True),
    "the provider": (lambda e: e._resolver, "provider", False),
    "the rules": (lambda e: e._resolver, "rules", False),
    "the request": (lambda e: e._resolver._catalogue.entries["test-idp"], "request", False),
    "unwrapping": (lambda _: AesVault, "data_keys", False),
    "opening": (lambda _: GrantDataKeys, "open", False),
    "pinning": (lambda e: e._exchanger, "_pinned", False),
    "making ready": (lambda e: e._exchanger, "make_ready", False),
    "the lane": (lambda e: e._lanes, "lane", False),
    "pacing": (lambda _: Pace, "slot", False),
    "pauses": (lambda _: Pace, "shut_until", False),
    "counting exchanges": (lambda e: e._counting, "of", False),
    "telling counts": (lambda _: worker.renewal.counting, "observe_all", False),
    "connecting": (lambda e: e._exchanger._endpoint, "exchange", False),
    "reading": (lambda e: e._resolver._catalogue.entries["test-idp"], "read", False),
    "salvaging": (lambda e: e._exchanger._salvager, "brought", False),
    "sealing": (lambda _: GrantDataKeys, "seal", False),
    "fingerprints": (lambda _: AesVault, "fingerprint", False),
    "journaling": (lambda e: e._journal, "append", False),
    "journaled": (lambda e: e._journal, "append", True),
    "judging": (lambda e: e._exchanger, "_ended", True),
    "settling": (lambda e: e._committer._settling, "settle", False),
    "settled": (lambda e: e._committer._settling, "settle", True),
    "marking": (lambda e: e._journal, "mark", False),
    "counting": (lambda e: e, "_count", False),
    "learning": (lambda e: e._lessons, "has_one", False),
}


def faults_counted():
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        if metric.name == "evergrant_internal_errors"
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


UNROTATED = STEPS.keys() - {"journaling", "journaled", "marking"}  # nothing to journal there
CASES = [(Rotation.N, step) for step in sorted(UNROTATED)]
CASES += [(rotation, step) for rotation in (Rotation.G, Rotation.F) for step in STEPS]


@pytest.mark.parametrize(("rotation", "step"), CASES)
def test_a_fault_at_any_step_strands_no_grant_and_loses_no_token(
    world, monkeypatch, rotation, step
):
    async def story():
        w = world(rotation, grace=30.0)
        grants = [w.plant(f"r{n}") for n in range(GRANTS)]
        process = w.start()
        find, name, done = STEPS[step]
        calls = breaks(monkeypatch, find(process.engine), name, done=done)
        before = faults_counted()
        await live([process], 900, tick=5)
        assert calls, "never got there"
        assert process.engine._live == {}
        assert [row_of(w.store, grant).attempt for grant in grants] == [None] * GRANTS
        assert all(row_of(w.store, grant).generation > 0 for grant in grants)
        assert {opened(w.store, w.vault, grant) for grant in grants} == {
            w.ledger.families[f"r{n}"].newest for n in range(GRANTS)
        }
        assert w.ledger.double_spends == []
        assert faults_counted() > before

    with capture_logs() as told:
        run(story())
    assert any(line["log_level"] == "error" for line in told)
    assert "r0" not in str(told)


@pytest.mark.parametrize("rotation", [Rotation.N, Rotation.G, Rotation.F])
def test_an_attempt_of_which_not_even_an_ending_can_be_made_is_retaken(
    world, monkeypatch, rotation
):
    async def story():
        w = world(rotation, grace=30.0)
        grant = w.plant()
        process = w.start()
        breaks(monkeypatch, process.engine._exchanger._endpoint, "exchange")
        breaks(monkeypatch, process.engine._endings, "left")
        await live([process], 60, tick=5)
        assert row_of(w.store, grant).generation > 0
        assert process.engine._live == {}

    run(story())


def test_a_grant_that_can_never_be_made_ready_keeps_no_other_from_it(world, monkeypatch):
    async def story():
        w = world()
        odd, *others = (w.plant(f"r{n}") for n in range(GRANTS))
        process = w.start()
        always(monkeypatch, process.engine._finder, "_ready", lambda one: one.claim.grant == odd)
        await process.drain(budget=5)
        assert all(row_of(w.store, grant).generation > 0 for grant in others)
        assert row_of(w.store, odd).last_error == "internal_OursError"

    run(story())


def test_a_grant_whose_takeover_can_never_be_judged_keeps_no_other_from_it(world, monkeypatch):
    async def story():
        w = world(Rotation.G, grace=30.0)
        odd, *others = (w.plant(f"r{n}") for n in range(GRANTS))
        doomed, heir = w.start(), w.start()
        always(monkeypatch, heir.engine._finder, "_ripe", lambda one, _: one.grant == odd)
        w.at_step = lambda who, step: who.kill() if (who, step) == (doomed, "connect") else None
        asyncio.get_running_loop().create_task(doomed.drain(budget=5))
        await asyncio.sleep(1)
        await live([heir], 10)
        assert all(row_of(w.store, grant).generation > 0 for grant in others)

    run(story())


def always(monkeypatch, owner, name, about):
    """Each call `about` that grant fails."""
    whole = getattr(owner, name)

    def call(*args):
        if about(*args):
            raise OursError
        return whole(*args)

    monkeypatch.setattr(owner, name, call)


def refusing(monkeypatch, world, process, refuses):
    """The store cannot write what `refuses`; and says so like no store we know."""
    settling = process.engine._committer._settling
    whole, refused = settling.settle, []

    def settle(endings):
        if odd := [ending for ending in endings if refuses(ending)]:
            refused.extend(odd)
            raise UnicodeEncodeError("utf-8", "r0", 0, 1, "surrogates not allowed")
        return whole(endings)

    monkeypatch.setattr(settling, "settle", settle)
    return refused


def scope(ending):
    return getattr(ending, "scope", None)


def odd_scope_for(token):
    """The provider's answer to this token names a scope that the store cannot write."""

    def faults(request):
        odd = request.body.decode() == token
        return Fault(mangle=lambda told: _with(told, scope="odd")) if odd else Fault()

    return faults


@pytest.mark.parametrize("rotation", [Rotation.N, Rotation.M, Rotation.G, Rotation.F])
def test_what_cannot_be_written_whole_is_written_bare_and_keeps_nobody_else(
    world, monkeypatch, rotation
):
    async def story():
        w = world(rotation, grace=30.0)
        grants = [w.plant(f"r{n}") for n in range(GRANTS)]
        process = w.start()
        refusing(monkeypatch, w, process, lambda ending: scope(ending) == "odd")
        w.network.faults = odd_scope_for("r0")
        await process.drain(budget=1)
        assert all(row_of(w.store, grant).generation > 0 for grant in grants[1:])
        w.network.faults = lambda _: Fault()
        await live([process], 60, tick=5)
        assert row_of(w.store, grants[0]).generation > 0
        assert opened(w.store, w.vault, grants[0]) == w.ledger.families["r0"].newest
        assert w.ledger.double_spends == []
        assert process.engine._live == {}

    run(story())


def test_a_successor_that_cannot_be_written_at_all_is_held_and_its_parent_not_sent(
    world, monkeypatch
):
    """I4: for as long as its process lives; and once it can be written it is."""

    async def story():
        w = world(Rotation.F)
        grant, other = w.plant("r0"), w.plant("r1")
        process = w.start()
        ill = True
        refusing(
            monkeypatch, w, process, lambda e: ill and e.grant == grant and hasattr(e, "rt_fp")
        )
        await live([process], 500, tick=5)
        assert row_of(w.store, other).generation > 0
        assert [token for _, token in w.network.sent] == ["r0", "r1"]
        ill = False
        await live([process], 100, tick=5)
        assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        assert w.ledger.double_spends == []
        assert process.engine._live == {}

    run(story())


def killed_before_settling(w, *doomed):
    """They have journaled what came, and die before the store has it."""
    w.at_step = lambda who, step: who.kill() if step == "settle" and who in doomed else None


def test_a_journal_of_which_an_entry_cannot_be_written_proves_no_death_and_keeps_no_other(
    world, monkeypatch
):
    """C10, I4: its token's parent is not sent; and once the entry can be written it is."""

    async def story():
        w = world(Rotation.F)
        odd, beside = w.plant("r0"), w.plant("r1")
        first, second, heir = w.start("p0"), w.start("p1"), w.start("p2")
        killed_before_settling(w, first, second)
        asyncio.get_running_loop().create_task(first.drain(budget=5))
        await asyncio.sleep(2)
        elsewhere = w.plant("r2")
        asyncio.get_running_loop().create_task(second.drain(budget=5))
        await asyncio.sleep(2)
        ill = True
        tries = refusing(
            monkeypatch, w, heir, lambda e: ill and e.grant == odd and hasattr(e, "rt_fp")
        )
        await live([heir], 300, tick=5)
        assert all(row_of(w.store, grant).generation > 0 for grant in (beside, elsewhere))
        assert heir.journals.replayed_names() == {"p1"}
        assert sorted(token for _, token in w.network.sent) == ["r0", "r1", "r2"]
        assert 4 <= sum(entry.read for entry in tries if entry.grant == odd) / 2 <= 7
        ill = False
        await live([heir], 100, tick=5)
        assert heir.journals.replayed_names() == {"p0", "p1"}
        assert opened(w.store, w.vault, odd) == w.ledger.families["r0"].newest
        assert w.ledger.double_spends == []

    with capture_logs() as told:
        run(story())
    assert {"p0"} == {t["process"] for t in told if t["event"] == "journal_not_replayed"}


@pytest.mark.parametrize("mended", [True, False])
def test_a_store_that_forgot_what_cannot_be_written_again_is_not_spent_from_for_a_hold(
    world, monkeypatch, mended
):
    """I24: and one entry does not stop the node for ever."""

    async def story():
        w = world(Rotation.F)
        grant, before = w.plant(), content_of(w.store)
        doomed = w.start()
        await doomed.drain(budget=5)
        doomed.kill()
        restore(w.store, before)
        heir = w.start()
        ill = True
        refusing(monkeypatch, w, heir, lambda e: ill and hasattr(e, "rt_fp"))
        await live([heir], 500, tick=5)
        assert len(w.network.sent) == 1
        ill = not mended
        await live([heir], 200, tick=5)
        if mended:
            assert opened(w.store, w.vault, grant) == w.ledger.families["r0"].newest
        else:
            assert not heir.engine._replayer.doubtful

    run(story())


def test_a_journal_entry_that_cannot_be_written_whole_is_replayed_bare(world, monkeypatch):
    async def story():
        w = world(Rotation.F)
        grants = [w.plant(f"r{n}") for n in range(GRANTS)]
        doomed, heir = w.start(), w.start()
        refusing(monkeypatch, w, heir, lambda ending: scope(ending) == "odd")
        w.network.faults = odd_scope_for("r0")
        w.at_step = lambda who, step: who.kill() if (who, step) == (doomed, "settle") else None
        asyncio.get_running_loop().create_task(doomed.drain(budget=5))
        await asyncio.sleep(2)
        w.network.faults = lambda _: Fault()
        await live([heir], 60, tick=5)
        assert {opened(w.store, w.vault, grant) for grant in grants} == {
            w.ledger.families[f"r{n}"].newest for n in range(GRANTS)
        }
        assert w.ledger.double_spends == []

    run(story())
