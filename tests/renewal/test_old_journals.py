"""What a process leaves, journal and counts, is kept for a day after its last write, not longer."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select
from structlog.testing import capture_logs

from tests.clock import FakeClock
from tests.journal.test_journal import brought, crash, threads
from worker.journal import Journal, NodeJournals
from worker.renewal.replaying import Replayer
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.claims import ClaimsRepository
from worker.store.engine import reading
from worker.store.settling import SettlingRepository
from worker.store.tables import CounterRow

NOW = datetime.now(UTC)


class Process:
    """One start of a worker: its journal, and the look at what others left."""

    def __init__(self, node, name):
        self.node, self.name = node, name
        by = {"node": "n1", "process": name, "clock": node.clock}
        self.journal = Journal(node.place, process=name, offload=threads)
        self.settling = SettlingRepository(node.store, **by, audit=AuditLog("n1"), tell=outbox.add)
        self.journals = NodeJournals(
            node.place, own=name, wall=lambda: node.clock.now().timestamp()
        )
        self.replayer = Replayer(
            self.settling,
            self.journal,
            self.journals,
            claims=ClaimsRepository(node.store, **by),
            node="n1",
            clock=node.clock,
            offload=threads,
            counter=lambda: 0,
        )

    async def renews_once(self, marked=True):
        entry = await self.journal.append(brought())
        if marked:
            self.settling.restore_counter(self.name, 1)
            self.journal.mark([entry], counter=1)
            await self.journal.probe()

    async def looks(self):
        assert await self.replayer.store_is_whole()
        await self.replayer.replay()

    async def ends(self):
        await self.journal.close()
        self.dates()

    def dates(self):
        for path in self.node.place.glob(f"{self.name}.*"):
            os.utime(path, (self.node.clock.now().timestamp(),) * 2)


class Node:
    def __init__(self, place, store):
        self.place, self.store, self.clock = place, store, FakeClock(NOW)

    def start(self, name):
        return Process(self, name)

    def files(self):
        return {path.name.partition(".")[0] for path in self.place.iterdir()}

    def counted(self):
        asked = select(func.count()).where(CounterRow.name.startswith("rotated:"))
        with reading(self.store) as db:
            return db.execute(asked).scalar_one()


@pytest.fixture
def node(tmp_path, sqlite_engine):
    return Node(tmp_path / "journal", sqlite_engine)


async def test_starts_without_number_leave_a_days_worth(node):
    for n in range(80):
        process = node.start(f"p{n}")
        await process.looks()
        await process.renews_once()
        await process.ends()
        node.clock.advance(6 * 3600)
        assert len(node.files()) <= 7
        assert node.counted() <= 7


async def test_what_was_not_replayed_is_kept_however_old(node):
    process = node.start("p1")
    await process.renews_once()
    await process.renews_once(marked=False)
    crash(process.journal)
    process.dates()
    node.clock.advance(90 * 86_400)
    later = node.start("p2")
    later.journals.drop_old()
    with later.journals.unreplayed() as found:
        assert [len(dead.left) for dead in found] == [1]
    assert later.settling.counter("p1") == 1
    await later.ends()


async def test_a_journal_that_may_not_be_read_is_no_proof_until_it_was_mended(node):
    """C10, I4: a volume's `fsGroup` opens every file in it to a group."""
    first = node.start("p1")
    await first.renews_once(marked=False)
    crash(first.journal)
    second = node.start("p2")
    await second.renews_once(marked=False)
    crash(second.journal)
    for path in node.place.glob("p1.*"):
        path.chmod(0o660)
    heir = node.start("p3")
    with capture_logs() as told:
        await heir.looks()
        await heir.looks()
    assert heir.journals.replayed_names() == {"p2"}
    (line,) = (line for line in told if line["event"] == "journal_unread")
    assert f"chmod 600 {node.place}/*" in line["what"]
    for path in node.place.glob("p1.*"):
        path.chmod(0o600)
    node.clock.advance(60)
    await heir.looks()
    assert heir.journals.replayed_names() == {"p1", "p2"}
    await heir.ends()


def damage(node, process):
    """One bit of the first record."""
    (path,) = node.place.glob(f"{process}.*.log")
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(bytes(content))


async def test_a_journal_that_has_lost_a_record_is_no_proof_and_told_once(node):
    """C10, I4: the record may have been the successor of a token that is claimed still."""
    first = node.start("p1")
    await first.renews_once(marked=False)
    await first.renews_once(marked=False)
    crash(first.journal)
    damage(node, "p1")
    heir = node.start("p2")
    settled = heir.settling.settle
    brought_forward = []
    heir.settling.settle = lambda endings: brought_forward.extend(endings) or settled(endings)
    with capture_logs() as told:
        await heir.looks()
        node.clock.advance(120)
        await heir.looks()
    assert len(brought_forward) == 1
    assert heir.journals.replayed_names() == frozenset()
    assert [t["process"] for t in told if t["event"] == "journal_damaged"] == ["p1"]
    await heir.ends()


def not_ours_alone(node, process):
    for path in node.place.glob(f"{process}.*.log"):
        path.chmod(0o640)


@pytest.mark.parametrize(("own", "harm"), [(True, damage), (True, not_ours_alone), (False, damage)])
async def test_a_store_that_forgot_is_not_spent_from_for_a_hold_if_a_journal_lacks_records(
    node, own, harm
):
    """I24: what they told of may have been committed, and be lost with the commits."""
    first = node.start("p1")
    await first.renews_once()
    if not own:
        crash(first.journal)
    harm(node, "p1")
    first.settling.uncount(["p1"])
    first.replayer._counter = lambda: 1
    looking = first if own else node.start("p2")
    for _ in range(9):
        assert not await looking.replayer.store_is_whole()
        node.clock.advance(61)
    node.clock.advance(61)
    assert await looking.replayer.store_is_whole()
    await looking.ends()


async def test_a_count_is_kept_as_long_as_its_journal(node):
    """I24: within the day a store that lost its last commits is found out by it."""
    first = node.start("p1")
    await first.renews_once()
    await first.ends()
    second = node.start("p2")
    await second.looks()
    assert second.settling.counter("p1") == 1
    assert "p1" in node.files()
    node.clock.advance(25 * 3600)
    await second.replayer.replay()
    assert second.settling.counter("p1") == 0
    assert "p1" not in node.files()
    await second.ends()
