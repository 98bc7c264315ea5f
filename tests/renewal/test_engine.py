"""The engine against a provider with a ledger: what is due gets renewed, once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from tests.planted import HOUR, opened, plant_connection, row_of
from tests.simulation.provider import NO_LIMITS, FakeEntry, Ledger, answer
from tests.simulation.virtual_time import run
from tests.simulation.world import Fault, seconds
from worker.domain.burial import Selection
from worker.domain.errors import PermanentError
from worker.domain.exchange import Limits, Rotation
from worker.domain.grant import GrantState
from worker.domain.secret import Secret
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.connections import ConnectionRepository
from worker.store.engine import reading, writing
from worker.store.tables import ConnectionRow, GrantRow, OutboxRow
from worker.store.tombstones import TombstoneRepository


def notices(w):
    with reading(w.store) as db:
        return list(db.execute(select(OutboxRow.kind).order_by(OutboxRow.id)).scalars())


def without_refresh_token(told):
    body = json.loads(told.body)
    del body["refresh_token"]
    return replace(told, body=json.dumps(body).encode())


@pytest.mark.parametrize("rotation", list(Rotation))
def test_what_is_due_is_renewed_once_and_due_again_before_it_expires(world, rotation):
    async def story():
        w = world(rotation, grace=30.0)
        grants = [w.plant(f"r{n}") for n in range(20)]
        process = w.start()
        assert await process.drain() == {"renewed": 20}
        assert len(w.network.sent) == 20
        for n, grant in enumerate(grants):
            assert opened(w.store, w.vault, grant) == w.ledger.families[f"r{n}"].newest
            row = row_of(w.store, grant)
            assert row.attempt is None
            assert w.now() < row.due_at < row.expires_at
        assert await process.drain() == {}

    run(story())


def test_a_refresh_token_that_does_not_come_stays_and_opens_under_its_new_generation(world):
    async def story():
        w = world(Rotation.N)
        w.network.faults = lambda _: Fault(mangle=without_refresh_token)
        grant = w.plant()
        assert await w.start().drain() == {"renewed": 1}
        assert opened(w.store, w.vault, grant) == "r0"
        assert opened(w.store, w.vault, grant, "at").startswith("at-r0")
        assert not row_of(w.store, grant).rotated_before

    run(story())


def test_two_workers_told_of_the_same_work_spend_nothing_twice(world):
    async def story():
        w = world(Rotation.F)
        for n in range(40):
            w.plant(f"r{n}")
        one, other = w.start(), w.start()
        counts = await asyncio.gather(one.drain(), other.drain(), one.drain())
        assert sum(count.get("renewed", 0) for count in counts) >= 40
        assert sorted(token for _, token in w.network.sent) == sorted(f"r{n}" for n in range(40))

    run(story())


def test_an_access_token_that_renews_itself_is_spent_no_earlier_than_the_provider_allows(world):
    async def story():
        w = world(Rotation.N)
        w.entry.spends = "at"
        w.ledger.login("a0")
        young = w.plant(rt="unused", not_before=w.now() + seconds(100))
        assert await w.start().drain() == {"postponed": 1}
        row = row_of(w.store, young)
        assert (row.due_at, row.failures) == (row.not_before, 0)
        await asyncio.sleep(101)
        assert await w.start().drain() == {"renewed": 1}
        assert [token for _, token in w.network.sent] == ["a0"]

    run(story())


def test_a_connection_that_is_not_set_up_is_looked_at_again_by_and_by(world):
    async def story():
        w = world()
        w.entry.not_renewable = "its client_id is empty"
        grant = w.plant()
        process = w.start()
        await process.drain()
        row = row_of(w.store, grant)
        assert (row.renewable, row.last_error) == (True, "not_renewable")
        assert row.due_at - w.now() > seconds(500)
        w.entry.not_renewable = None
        await asyncio.sleep(1000)
        assert await process.drain() == {"renewed": 1}

    run(story())


def test_what_has_nothing_to_renew_with_says_so_and_is_not_due_again(world):
    async def story():
        w = world()
        w.entry.spends = ""
        grant = w.plant()
        await w.start().drain()
        row = row_of(w.store, grant)
        assert (row.renewable, row.reason, row.due_at) == (False, "not_renewable", None)

    run(story())


def test_a_ciphertext_that_was_tampered_with_is_never_sent(world):
    async def story():
        w = world()
        grant = w.plant()
        forged = row_of(w.store, grant).refresh_token[:-1] + b"x"
        with writing(w.store) as db:
            db.execute(update(GrantRow).values(refresh_token=forged))
        await w.start().drain()
        row = row_of(w.store, grant)
        assert (row.last_error, row.due_at) == ("does_not_open", None)
        assert w.network.sent == []

    run(story())


def test_the_first_host_is_pinned_and_another_one_stops_the_connection(world):
    """I13: whoever may edit a connection could else have every refresh token posted to him."""

    async def story():
        w = world(Rotation.N)
        w.plant("r0")
        process = w.start()
        await process.drain()
        assert w.config().approved_host == "test-idp.example"
        w.entry.host = "evil.example"
        await asyncio.sleep(10)
        for n in range(1, 4):
            w.plant(f"r{n}")
        await process.drain()
        assert len(w.network.sent) == 1
        assert "evil.example" in w.config().stopped
        assert notices(w) == ["connection_stopped"]

    run(story())


@pytest.mark.parametrize("mended", [True, False])
def test_a_pin_is_not_moved_by_who_read_the_connection_before_it_was_set(world, mended):
    """I13: for five seconds a process goes by what it has read. Where the connection says something
    else by now that was all; else two processes see two hosts, and somebody has to look."""

    async def story():
        w = world(Rotation.N)
        first, second = w.start(), w.start()
        w.plant("later", not_before=w.now() + timedelta(hours=1))  # read, and nothing is sent
        await first.drain(budget=1)
        assert w.config().approved_host is None
        w.plant("r0")
        await second.drain(budget=1)
        if mended:
            with writing(w.store) as db:
                db.execute(update(ConnectionRow).values(options={"token_endpoint": "another"}))
        w.entry.host = "evil.example"
        grant = w.plant("r1")
        await first.drain(budget=1)
        assert [token for _, token in w.network.sent] == ["r0"]
        assert w.config().approved_host == "test-idp.example"
        assert row_of(w.store, grant).last_error == "host_changed"
        assert bool(w.config().stopped) is not mended
        assert notices(w) == ([] if mended else ["connection_stopped"])
        w.entry.host = "test-idp.example"
        await asyncio.sleep(800)
        await first.drain(budget=1)
        assert (row_of(w.store, grant).generation > 0) is mended

    run(story())


def test_of_two_ends_that_are_known_the_sooner_one_is_kept(world):
    """QuickBooks tells its hundred days of silence; five years after the login it ends anyway."""

    async def story():
        w = world()
        years, idle = timedelta(days=1825), timedelta(days=100)
        w.entry.lifetimes = replace(NO_LIMITS, refresh=years, refresh_idle=idle, refresh_fixed=True)
        logged_in_at = w.now() - timedelta(days=1820)
        grant = w.plant(logged_in_at=logged_in_at)
        body = {"access_token": "a1", "expires_in": 3600, "refresh_expires_in": 8640000}
        w.network.faults = lambda _: Fault(answer=answer(200, body))
        await w.start().drain()
        assert row_of(w.store, grant).refresh_expires_at == logged_in_at + years

    run(story())


@pytest.mark.parametrize("throttled", [True, False])
def test_a_refusal_that_may_mean_haste_is_believed_the_second_time(world, throttled):
    """Apple answers `invalid_client` to whom asks too often."""

    async def story():
        w = world()
        refusals = iter([Fault(answer=answer(400, {"error": "client_or_haste"}))] * (2 - throttled))
        w.network.faults = lambda _: next(refusals, Fault())
        grant = w.plant()
        process = w.start()
        await process.drain(budget=5)
        assert w.config().stopped is None
        await asyncio.sleep(590)
        await process.drain(budget=5)
        assert len(w.network.sent) == 1
        await asyncio.sleep(200)
        await process.drain(budget=5)
        assert len(w.network.sent) == 2
        assert w.config().stopped == (None if throttled else "client_or_haste")
        assert row_of(w.store, grant).state == GrantState.ACTIVE

    run(story())


def test_a_wrong_client_secret_stops_the_connection_and_blames_no_grant(world):
    """I9."""

    async def story():
        w = world()
        w.network.faults = lambda _: Fault(answer=answer(401, {"error": "invalid_client"}))
        grants = [w.plant(f"r{n}") for n in range(30)]
        process = w.start()
        await process.drain(budget=5)
        assert w.config().stopped == "invalid_client"
        assert {row_of(w.store, grant).state for grant in grants} == {GrantState.ACTIVE}
        assert notices(w) == ["connection_stopped"]
        asked = len(w.network.sent)
        await asyncio.sleep(700)
        await process.drain(budget=5)
        assert len(w.network.sent) == asked

    run(story())


def test_a_hanging_provider_delays_no_other(world):
    async def story():
        w = world(Rotation.F)
        other = FakeEntry("other", Ledger(Rotation.N))
        w.catalogue.entries["other"] = other
        w.network._ledgers[other.host] = other.ledger
        plant_connection(w.store, name="other")
        w.network.faults = lambda r: Fault(lose_answer=r.host == w.entry.host)
        for n in range(60):
            w.plant(f"r{n}")
            other.ledger.login(f"o{n}")
            w.plant(f"o{n}", connection="other", provider="other")
        process = w.start()
        began = w.clock.monotonic()
        hanging = asyncio.create_task(process.drain(budget=30))
        done = await process.drain("other")
        assert done == {"renewed": 60}
        assert w.clock.monotonic() - began < 5.0
        await hanging

    run(story())


def test_a_host_that_says_retry_after_is_left_alone_by_every_process_until_then(world):
    async def story():
        w = world(Rotation.N)
        for n in range(50):
            w.plant(f"r{n}")
        w.network.faults = lambda _: Fault(answer=answer(429, {}, retry_after="600"))
        one, other = w.start(), w.start()
        await one.drain(budget=20)
        asked = len(w.network.sent)
        assert asked <= 20
        await other.engine.sweep()
        w.network.faults = lambda _: Fault()
        await asyncio.sleep(500)
        await asyncio.gather(one.drain(budget=20), other.drain(budget=20))
        assert len(w.network.sent) == asked
        await asyncio.sleep(2000)
        await one.drain()
        assert len(w.network.sent) == asked + 50

    run(story())


def test_a_dead_host_is_probed_not_hammered_and_drained_when_it_is_back(world):
    async def story():
        w = world(Rotation.N)
        for n in range(200):
            w.plant(f"r{n}")
        process, tried = w.start(), []
        w.network.faults = lambda r: tried.append(r) or Fault(refuse=True)
        for _ in range(120):
            await process.drain(budget=5)
            await asyncio.sleep(5)
        assert len(tried) < 60
        w.network.faults = lambda _: Fault()
        await asyncio.sleep(400)
        assert (await process.drain())["renewed"] == 200

    run(story())


def test_no_more_exchanges_run_at_once_than_the_host_bears(world):
    async def story():
        w = world(Rotation.N)
        w.entry.limits = Limits(concurrency=7, per_second=10_000.0)
        for n in range(100):
            w.plant(f"r{n}")
        await w.start().drain()
        assert w.network.most_open <= 7

    run(story())


def test_the_rate_of_a_host_is_kept(world):
    async def story():
        w = world(Rotation.N)
        w.entry.limits = Limits(concurrency=50, per_second=10.0)
        for n in range(100):
            w.plant(f"r{n}")
        await w.start().drain()
        times = [when for when, _ in w.network.sent]
        assert times[-1] - times[0] >= 9.0

    run(story())


def test_stopping_claims_nothing_more_and_waits_for_answers_under_way(world):
    async def story():
        w = world(Rotation.F)
        w.network.faults = lambda _: Fault(back=100.0)
        grants = [w.plant(f"r{n}") for n in range(3)]
        process = w.start()
        draining = asyncio.create_task(process.drain())
        await asyncio.sleep(1)
        w.plant("late")
        await process.engine.stop()
        await draining
        assert {row_of(w.store, grant).generation for grant in grants} == {1}
        assert len(w.network.sent) == 3

    run(story())


def test_stopping_takes_no_longer_than_what_is_under_way(world):
    async def story():
        w = world(Rotation.N)
        w.plant()
        process = w.start()
        await process.drain()
        began = w.clock.monotonic()
        await process.engine.stop()
        assert w.clock.monotonic() - began < 0.1

    run(story())


def test_a_deleted_grant_is_not_sent_even_if_it_was_claimed_before(world):
    async def story():
        w = world(Rotation.N)
        grant = w.plant()
        process = w.start()
        w.network.faults = lambda _: process.engine.abandon([grant]) or Fault(connect=1.0)
        await process.drain(budget=0.5)
        assert w.network.sent == []

    run(story())


@pytest.mark.parametrize("rotation", [Rotation.N, Rotation.F])
def test_a_grant_deleted_by_another_process_after_its_claim_is_not_sent(world, rotation):
    """I14: the gate learns within a second of what was deleted elsewhere."""

    async def story():
        w = world(rotation)
        grant, other = w.plant("r0"), w.plant("r1")
        process = w.start()
        w.network.faults = lambda _: Fault(connect=2.0)
        draining = asyncio.create_task(process.drain(budget=10))
        await asyncio.sleep(0.5)
        assert row_of(w.store, grant).attempt is not None
        TombstoneRepository(w.store, AuditLog("cli"), outbox.add).bury(
            Selection(tenant="acme", grant=grant), why="asked", actor="cli:x", now=w.now()
        )
        await draining
        assert [token for _, token in w.network.sent] == ["r1"]
        assert row_of(w.store, grant).state == GrantState.TOMBSTONED
        assert row_of(w.store, other).generation == 1

    run(story())


def test_a_process_that_stood_still_does_not_send_what_was_deleted_meanwhile(world):
    """I14: old knowledge shuts the gate, long before the lease ends."""

    async def story():
        w = world(Rotation.F)
        grant = w.plant()
        process = w.start()
        w.network.faults = lambda _: Fault(connect=30.0)
        w.at_step = lambda _, step: step == "connect" and process.pause()
        draining = asyncio.create_task(process.drain(budget=60))
        await asyncio.sleep(1)
        TombstoneRepository(w.store, AuditLog("cli"), outbox.add).bury(
            Selection(tenant="acme", grant=grant), why="asked", actor="cli:x", now=w.now()
        )
        w.network.faults = lambda _: Fault()
        await asyncio.sleep(5.5)
        w.at_step = None
        w.store_away = True  # nor can it ask, when it wakes
        process.resume()
        await asyncio.sleep(5)
        assert w.network.sent == []
        draining.cancel()

    run(story())


def test_what_waited_for_a_mended_connection_is_renewed_within_half_a_minute(world):
    """I9: the secret is put right at Auth0, read anew, and nobody waits out ten minutes."""

    async def story():
        w = world(Rotation.F)
        grants = [w.plant(f"r{n}", life=HOUR * 2) for n in range(20)]
        wrong = Fault(answer=answer(401, {"error": "invalid_client"}))
        w.network.faults = lambda _: wrong
        process = w.start()
        await process.drain(budget=5)
        assert w.config().stopped == "invalid_client"
        w.network.faults = lambda _: Fault()
        mended = replace(w.config(), client_secret=Secret("the right one"), fetched_at=w.now())
        ConnectionRepository(w.store, w.vault).put(mended, options_seen=True)
        for _ in range(60):
            await process.drain(budget=0.5)
            await asyncio.sleep(0.5)
        assert 0 not in {row_of(w.store, grant).generation for grant in grants}

    run(story())


@pytest.mark.parametrize("act", ["approve_host", "stop"])
def test_a_store_that_refuses_what_is_done_to_a_connection_parks_no_grant(world, act):
    """As a database that was made read-only by a failover does, and for a while only."""

    async def story():
        w = world()
        grants = [w.plant(f"r{n}") for n in range(5)]
        refusing, wrong = [True], Fault(answer=answer(401, {"error": "invalid_client"}))
        w.network.faults = lambda _: wrong if refusing and act == "stop" else Fault()

        def refuses(_process, step):
            if step == act and refusing:
                raise PermanentError("store: ReadOnlySqlTransaction", code="store_error")

        w.at_step = refuses
        process = w.start()
        with capture_logs() as told:
            await process.drain(budget=5)
        assert len(w.network.sent) == (0 if act == "approve_host" else 5)
        assert all(row_of(w.store, grant).due_at > w.now() for grant in grants)
        assert any("ReadOnlySqlTransaction" in line.get("why", "") for line in told)
        refusing.clear()
        await asyncio.sleep(800)
        await process.drain(budget=5)
        assert 0 not in {row_of(w.store, grant).generation for grant in grants}

    run(story())


def test_an_answer_to_the_old_secret_does_not_stop_a_mended_connection(world):
    async def story():
        w = world()
        w.plant()
        told = answer(401, {"error": "invalid_client"})
        w.network.faults = lambda _: Fault(answer=told, back=3.0)
        draining = asyncio.create_task(w.start().drain(budget=5))
        await asyncio.sleep(1)
        mended = replace(w.config(), client_secret=Secret("the right one"), fetched_at=w.now())
        ConnectionRepository(w.store, w.vault).put(mended, options_seen=True)
        await draining
        assert w.config().stopped is None

    run(story())


def test_nor_if_the_right_secret_is_read_in_the_moment_before_the_stop(world):
    """I9: nothing would ever open it again, for a reading that brings the same mends nothing."""

    async def story():
        w = world()
        grant = w.plant()
        wrong = Fault(answer=answer(401, {"error": "invalid_client"}))
        w.network.faults = lambda _: Fault() if w.config().client_secret else wrong

        def about_to_stop(_process, step):
            if step == "stop":
                mended = replace(w.config(), client_secret=Secret("the right one"))
                ConnectionRepository(w.store, w.vault).put(mended, options_seen=True)

        w.at_step = about_to_stop
        process = w.start()
        await process.drain(budget=5)
        assert w.config().stopped is None
        assert w.config().client_secret == Secret("the right one")
        assert notices(w) == []
        await asyncio.sleep(800)
        await process.drain(budget=5)
        assert row_of(w.store, grant).generation > 0

    run(story())


def test_sweeping_renews_what_nobody_was_told_of(world):
    """C17: with the broker gone renewal goes on."""

    async def story():
        w = world()
        w.plant(due_at=w.now() - seconds(60))
        assert await w.start().engine.sweep() == {"renewed": 1}

    run(story())
