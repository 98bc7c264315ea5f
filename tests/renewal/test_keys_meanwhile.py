"""Keys change while an answer is awaited: what it brings is sealed and kept all the same."""

from __future__ import annotations

import asyncio
from operator import methodcaller

import pytest

from tests.planted import opened, row_of
from tests.simulation.provider import Ledger
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault, World
from worker.domain.exchange import Rotation
from worker.store.rewrap import refuse_if_referenced, rewrap
from worker.vault import AesVault, Keyring, KeyringSource, Purpose


@pytest.fixture
def path(tmp_path):
    Keyring.create(tmp_path / "keyring.json")
    return str(tmp_path / "keyring.json")


@pytest.fixture
def source(path):
    return KeyringSource(path)


def disabled(store, source):
    """All that an operator may do to a key, and in the order he is told to do it in."""
    before = source.load()
    old = [before.primary(purpose).id for purpose in (Purpose.REFRESH, Purpose.ACCESS)]
    source.edit(lambda ring: ring.rotate(Purpose.REFRESH).rotate(Purpose.ACCESS))
    assert rewrap(store, AesVault(source.load())).left == 0
    for key in old:
        refuse_if_referenced(store, key)
        source.edit(methodcaller("disable", key))
    return old


def destroyed(store, source):
    for key in disabled(store, source):
        source.edit(methodcaller("destroy", key, references=0))


def of_another_role(_store, source):
    """A file brought to the wrong machine: neither refresh tokens nor fingerprints."""
    source.edit(lambda ring: ring.limited_to([Purpose.ACCESS, Purpose.CONFIG]))


@pytest.mark.parametrize("change", [disabled, destroyed, of_another_role])
def test_an_answer_is_kept_whatever_became_of_the_keys_while_it_was_awaited(path, source, change):
    """I3, I23: its claim names keys as they were wrapped when it was made."""
    running, before = AesVault.from_source(path), source.load()

    async def story():
        w = World(Ledger(Rotation.F), running)
        grant = w.plant("r0")
        w.network.faults = lambda _: Fault(back=60.0)
        process = w.start()
        await process.drain(budget=5)
        assert len(w.network.sent) == 1
        change(w.store, source)
        running.primaries()  # looks at the file, as any other work of the process would
        await asyncio.sleep(120)
        assert row_of(w.store, grant).generation == 1
        now = AesVault(before if change is of_another_role else source.load())
        assert opened(w.store, now, grant) == w.ledger.families["r0"].newest
        assert w.ledger.double_spends == []
        assert len(w.network.sent) == 1

    run(story())


def test_nothing_is_sent_whose_answer_could_not_be_sealed(path, source):
    """A strict provider would have moved on, and its successor would be lost."""

    async def story():
        running = AesVault.from_source(path)
        w = World(Ledger(Rotation.F), running)
        grant = w.plant("r0")
        access = source.load().primary(Purpose.ACCESS).id
        source.edit(lambda ring: ring.rotate(Purpose.ACCESS).disable(access))
        running.primaries()
        process = w.start()
        await process.drain(budget=5)
        assert w.network.sent == []
        assert row_of(w.store, grant).last_error == "key_disabled"
        source.edit(lambda ring: ring.enable(access))
        running.primaries()
        await asyncio.sleep(800)
        await process.drain(budget=5)
        assert opened(w.store, running, grant) == w.ledger.families["r0"].newest != "r0"

    run(story())
