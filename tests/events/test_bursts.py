"""A burst about one user is one or two reads, though two worker processes work it off."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, func, select, text, update

from tests.clock import FakeClock, as_told
from tests.events.payloads import ROSA, array, login
from tests.events.world import World, offload
from worker.actions.api import PostponedError, Pulls
from worker.domain.errors import TransientError
from worker.events import Processor
from worker.events.ports import Limits
from worker.store.engine import reading
from worker.store.inbox import _TURN
from worker.store.pulls import PullRepository
from worker.store.tables import InboxRow, PullRow

BURST = 1000


async def test_a_thousand_events_for_one_user_are_two_reads_at_most(
    engine: Engine, tmp_path: Path
) -> None:
    one, two = World(engine, tmp_path / "1"), World(engine, tmp_path / "2")
    two.clock = one.clock  # two processes of one moment
    two.processor._clock = two.intake._clock = one.clock
    for at in range(0, BURST, 50):
        one.deliver(array(*(login(str(n)) for n in range(at, at + 50))))
        await asyncio.gather(one.work(), two.work())
    assert len(one.pull.users) + len(two.pull.users) == 1
    one.clock.advance(3)
    await asyncio.gather(one.work(), two.work())
    assert [*one.pull.users, *two.pull.users] == [("acme", ROSA)] * 2
    assert one.inbox.counts() == {"done": BURST}


def test_one_process_of_many_pulls_in_each_gap(engine: Engine) -> None:
    pulls, clock, gap = PullRepository(engine, time=as_told), FakeClock(), timedelta(seconds=2)

    def ask() -> timedelta:
        return pulls.reserve("acme", "user:rosa", gap=gap, now=clock.now())

    assert ask() == timedelta(0)
    clock.advance(0.5)
    assert ask() == timedelta(seconds=1.5)
    begun = pulls.begin("acme", "user:rosa", now=clock.now())  # the fence has its own count
    assert (begun.fence, begun.missing) == (1, 0)
    clock.advance(1.5)
    assert ask() == timedelta(0)


@pytest.mark.parametrize("known", [False, True], ids=["of a new user", "of one known for long"])
def test_a_read_that_nobody_had_to_reserve_makes_no_event_wait(engine: Engine, known: bool) -> None:
    """A forced read, a backfill and a reconcile take the fence only."""
    pulls, clock, gap = PullRepository(engine, time=as_told), FakeClock(), timedelta(seconds=2)
    if known:
        pulls.reserve("acme", "user:rosa", gap=gap, now=clock.now() - timedelta(days=1))
    pulls.begin("acme", "user:rosa", now=clock.now())
    assert pulls.reserve("acme", "user:rosa", gap=gap, now=clock.now()) == timedelta(0)
    pulls.begin("acme", "user:rosa", now=clock.now())  # the event's own read frees nobody else
    assert pulls.reserve("acme", "user:rosa", gap=gap, now=clock.now()) == gap


def test_who_reads_again_after_long_leaves_a_moment_that_a_purge_can_read(engine: Engine) -> None:
    pulls, clock = PullRepository(engine, time=as_told), FakeClock()
    pulls.begin("acme", "user:rosa", now=clock.now() - timedelta(days=1))
    pulls.begin("acme", "user:rosa", now=clock.now())
    with reading(engine) as connection:
        at = connection.execute(select(PullRow.reserved_at)).scalar_one()
    assert at is not None
    assert timedelta(0) < clock.now() - at < timedelta(days=1)


def test_a_reservation_from_the_future_binds_nobody(engine: Engine) -> None:
    pulls, clock, gap = PullRepository(engine, time=as_told), FakeClock(), timedelta(seconds=2)
    pulls.reserve("acme", "user:rosa", gap=gap, now=clock.now() + timedelta(hours=1))
    assert pulls.reserve("acme", "user:rosa", gap=gap, now=clock.now()) == timedelta(0)


def test_what_is_due_about_the_same_user_is_claimed_with_the_oldest_of_it(
    engine: Engine, tmp_path: Path
) -> None:
    """After an outage, with fifty events of each user waiting, one look serves all fifty."""
    world = World(engine, tmp_path)
    for at in range(50):
        world.deliver(array(*(login(f"{at}-{n}", user_id=f"auth0|{n}") for n in range(20))))
        world.clock.advance(1)
    lease = timedelta(seconds=60)
    first = world.inbox.claim(now=world.clock.now(), lease_for=lease, limit=10)
    users = {row.event.user_id for row in first}
    assert (len(users), len(first)) == (10, 100)  # ten times the limit at most
    second = world.inbox.claim(now=world.clock.now(), lease_for=lease, limit=200)
    served = Counter(row.event.user_id for row in [*first, *second])
    assert {served[row.event.user_id] for row in second} == {50}
    assert len(second) > 200


async def test_a_crowd_of_events_about_one_user_leaves_room_and_memory_for_the_others(
    engine: Engine, tmp_path: Path
) -> None:
    """One look takes a bounded part of them, and until it ends no more of them are taken."""
    world = World(engine, tmp_path)
    world.deliver(array(*(login(f"hot-{n}", user_id="auth0|hot") for n in range(500))))
    world.clock.advance(1)
    world.deliver(array(*(login(f"one-{n}", user_id=f"auth0|{n}") for n in range(50))))
    worker = Processor(
        inbox=world.inbox,
        actions=world.registry,
        clock=world.clock,
        offload=offload,
        limits=Limits(rows=20),
    )
    ends, read = asyncio.Event(), world.pull.user

    async def user(tenant: str, user_id: str, **more: object) -> None:
        await read(tenant, user_id)
        if user_id == "auth0|hot":
            await ends.wait()

    world.pull.user = user  # type: ignore[method-assign]
    work = asyncio.create_task(worker.process(budget_seconds=3600))
    async with asyncio.timeout(20):
        while world.inbox.counts().get("done", 0) < 50:
            await asyncio.sleep(0.01)
    in_hand, put_off = InboxRow.lease_until.is_not(None), InboxRow.next_at > world.clock.now()
    with engine.connect() as connection:
        rows = [
            connection.execute(select(func.count()).where(which)).scalar_one()
            for which in (in_hand, put_off)
        ]
    assert rows == [200, 0]  # ten times what a claim takes, and the others just lie there
    assert world.pull.users.count(("acme", "auth0|hot")) == 1
    ends.set()
    await work


async def test_who_logs_in_behind_a_backlog_does_not_wait_for_its_end(
    engine: Engine, tmp_path: Path
) -> None:
    """Three hundred users wait for the tenant's request budget; the newest goes beside them."""
    world = World(engine, tmp_path)
    world.deliver(array(*(login(f"{n}", user_id=f"auth0|{n}") for n in range(300))))
    read, ends = world.pull.user, asyncio.Event()

    async def user(tenant: str, user_id: str, **more: object) -> None:
        await read(tenant, user_id)
        if user_id not in ("auth0|rosa", "auth0|emil"):
            await ends.wait()

    world.pull.user = user  # type: ignore[method-assign]
    world.bind()
    work = asyncio.create_task(world.work(seconds=3600))
    async with asyncio.timeout(20):
        while not world.pull.users:
            await asyncio.sleep(0.01)
    for newest in ("auth0|rosa", "auth0|emil"):
        world.clock.advance(1)
        world.deliver(array(login(newest, user_id=newest)))
        async with asyncio.timeout(20):
            while ("acme", newest) not in world.pull.users:
                await asyncio.sleep(0.01)
    assert len(world.pull.users) < 50
    ends.set()
    await work
    assert world.inbox.counts() == {"done": 302}


async def test_what_fails_or_has_to_wait_does_so_once_for_all_events_about_it(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path)
    asked: list[str] = []
    reserve = world._reserve
    world._reserve = lambda *args, **more: asked.append(args[1]) or reserve(*args, **more)  # type: ignore[method-assign, func-returns-value]
    world.bind()
    world.pull.broken["acme"] = TransientError("auth0: 502", code="auth0_away")
    world.deliver(array(*(login(str(n)) for n in range(300))))
    assert await world.work() == {"retry": 300}
    assert (len(world.pull.users), len(asked)) == (1, 1)

    world.pull.broken.clear()
    world.deliver(array(*(login(f"more-{n}") for n in range(300))))
    assert await world.work() == {"retry": 300}  # the last read was a moment ago
    assert (len(world.pull.users), len(asked)) == (1, 2)
    await world.work_for(9)
    assert world.inbox.counts() == {"done": 600}
    assert len(world.pull.users) <= 3


async def test_a_read_that_was_cut_off_is_not_begun_again_for_the_next_event(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path)
    world.pull.hangs.add("acme")
    pulls = Pulls(world.registry._with, timedelta(seconds=2))
    reading = asyncio.create_task(pulls.user("acme", ROSA, None))
    async with asyncio.timeout(20):
        while not world.pull.users:
            await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    for _ in range(3):
        with pytest.raises(TransientError):
            await asyncio.wait_for(pulls.user("acme", ROSA, None), 5)
    assert len(world.pull.users) == 1


async def test_a_wait_is_the_users_own(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path)
    await Pulls(world.registry._with, timedelta(seconds=2)).user("acme", ROSA, None)
    pulls = Pulls(world.registry._with, timedelta(seconds=2))
    with pytest.raises(PostponedError):
        await pulls.user("acme", ROSA, None)
    assert await pulls.user("acme", "auth0|else", None)


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
def test_who_stands_still_in_a_claim_stops_nobody_else(engine: Engine, tmp_path: Path) -> None:
    """Claimers take turns, so that one gets all that is due about a user; but not for ever."""
    world = World(engine, tmp_path)
    world.deliver(array(login("1")))
    with engine.begin() as stopped:
        stopped.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TURN})
        lease = timedelta(seconds=60)
        assert len(world.inbox.claim(now=world.clock.now(), lease_for=lease, limit=10)) == 1


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
def test_who_claims_meanwhile_gets_no_part_of_the_burst(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path)
    world.deliver(array(login("1"), login("2")))
    now, lease = world.clock.now(), timedelta(seconds=60)
    with ThreadPoolExecutor(1) as other, engine.begin() as one:
        one.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TURN})
        claimed = other.submit(world.inbox.claim, now=now, lease_for=lease, limit=10)
        while not claimed.done() and not one.execute(text(_WAITING)).scalar_one():
            pass
        one.execute(update(InboxRow).values(lease_until=now + lease))
        one.commit()
        assert claimed.result() == []


_WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
def test_a_claim_among_many_rows_walks_its_indexes(engine: Engine, tmp_path: Path) -> None:
    """What is done already is not read again, however much of it there is."""
    world = World(engine, tmp_path)
    with engine.begin() as connection:
        connection.execute(text(_FILLED), {"now": world.clock.now()})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE inbox"))
    statements: list[tuple[str, object]] = []

    def note(_c: object, _cursor: object, statement: str, values: object, *_: object) -> None:
        statements.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    held = [("acme", "user:auth0|7")]
    claimed = world.inbox.claim(
        now=world.clock.now(), lease_for=timedelta(seconds=60), limit=20, held=held
    )
    lease = timedelta(seconds=60)
    world.inbox.claim_fresh(
        now=world.clock.now(), lease_for=lease, limit=2, tenants=["acme"], held=held
    )
    event.remove(engine, "before_cursor_execute", note)
    assert 100 < len(claimed) <= 200
    assert "user:auth0|7" not in {row.event.subject for row in claimed}
    plans = [plan_of(engine, *one) for one in statements if "UPDATE inbox" in one[0]]
    oldest, same, fresh = plans
    assert "Index Scan Backward using ix_inbox_due" in fresh
    assert "ix_inbox_due" in oldest
    assert "ix_inbox_subject" in same
    assert "Seq Scan on inbox" not in oldest + same + fresh


# ten events wait for each of two thousand users, and forty have been worked off
_FILLED = """
    INSERT INTO inbox (tenant, source, delivery_id, trigger, subject, event, state, progress,
                       attempts, next_at, received_at)
    SELECT 'acme', 'logs', n, 'login', 'user:auth0|' || n % 2000,
           json_build_object('user_id', 'auth0|' || n % 2000),
           CASE WHEN n < 20000 THEN 'new' ELSE 'done' END, '{}', 0,
           CASE WHEN n < 20000 THEN cast(:now AS timestamptz) END, cast(:now AS timestamptz)
      FROM generate_series(0, 99999) AS n"""


def plan_of(engine: Engine, statement: str, values: object) -> str:
    with engine.connect() as connection:
        told = connection.exec_driver_sql(f"EXPLAIN {statement}", values)  # type: ignore[arg-type]
        return "\n".join(line for (line,) in told)
