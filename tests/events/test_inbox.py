"""The inbox on both databases: an event is there once, and is one worker's at a time."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from tests.clock import T0
from worker.domain.event import Event, Source, Trigger
from worker.store.inbox import InboxRepository, Settlement
from worker.store.stuck_events import StuckEventRepository

LEASE = timedelta(seconds=60)


def event(number: object = 1, **more: object) -> Event:
    told = {
        "tenant": "acme",
        "trigger": Trigger.LOGIN,
        "source": Source.LOGS,
        "delivery_id": f"log-{number}",
        "user_id": "google-oauth2|1",
    }
    return Event(**{**told, **more})  # type: ignore[arg-type]  # a test's shorthand


@pytest.fixture
def inbox(engine: Engine) -> InboxRepository:
    return InboxRepository(engine)


def add(inbox: InboxRepository, *events: Event) -> int:
    return inbox.add(events, now=T0, next_at=[T0] * len(events))


def test_a_delivery_is_kept_once_however_often_it_comes(inbox: InboxRepository) -> None:
    assert add(inbox, *[event(1)] * 1000) == 1
    assert add(inbox, event(1), event(2)) == 1
    other_door, other_tenant = event(1, source=Source.EVENTS), event(1, tenant="other")
    assert add(inbox, other_door, other_tenant) == 2


def test_what_comes_out_is_what_went_in(inbox: InboxRepository) -> None:
    full = event(
        1,
        occurred_at=T0,
        connection="google-oauth2",
        connection_id="con_1",
        strategy="google-oauth2",
        identity_user_id="1",
        detail={"code": "s"},
    )
    hostile = event(2, user_id="x'; DROP TABLE inbox;-- ../%2f|{é}\\", connection='a"b,c{d}')
    add(inbox, full, hostile)
    claimed = inbox.claim(now=T0, lease_for=LEASE, limit=10)
    assert [c.event for c in claimed] == [full, hostile]


def test_a_claimed_row_is_nobody_elses_until_its_lease_ends(inbox: InboxRepository) -> None:
    add(inbox, event(1))
    [first] = inbox.claim(now=T0, lease_for=LEASE, limit=10)
    assert inbox.claim(now=T0 + LEASE / 2, lease_for=LEASE, limit=10) == []
    [second] = inbox.claim(now=T0 + LEASE, lease_for=LEASE, limit=10)
    late = settled(first, progress={"pull_user": "late"})
    assert inbox.settle([late], now=T0 + LEASE) == 0  # the first holder woke up too late
    assert inbox.settle([settled(second)], now=T0 + LEASE) == 1
    assert inbox.claim(now=T0 + 9 * LEASE, lease_for=LEASE, limit=10) == []


def settled(claimed: object, **more: object) -> Settlement:
    done = {"state": "done", "progress": {}, "attempts": 0, "next_at": None}
    return Settlement(claimed=claimed, **{**done, **more})  # type: ignore[arg-type]  # as above


def test_a_released_row_is_free_at_once(inbox: InboxRepository) -> None:
    add(inbox, event(1))
    inbox.release(inbox.claim(now=T0, lease_for=LEASE, limit=10))
    assert len(inbox.claim(now=T0, lease_for=LEASE, limit=10)) == 1


def test_tenants_that_have_enough_in_hand_are_passed_over(inbox: InboxRepository) -> None:
    add(inbox, event(1), event(2, tenant="other"))
    claimed = inbox.claim(now=T0, lease_for=LEASE, limit=10, without=["acme"])
    assert [c.event.tenant for c in claimed] == ["other"]


def test_two_workers_never_claim_the_same_row(inbox: InboxRepository) -> None:
    add(inbox, *(event(n) for n in range(300)))
    got: list[int] = []

    def work() -> None:
        while claimed := inbox.claim(now=T0, lease_for=LEASE, limit=20):
            got.extend(c.id for c in claimed)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got)) == 300


def test_overlapping_batches_do_not_wait_for_each_other_in_a_circle(inbox: InboxRepository) -> None:
    rounds, together, failed = 15, threading.Barrier(4), list[BaseException]()

    def post(backwards: bool) -> None:
        for round_ in range(rounds):
            batch = [event(f"{round_}-{n:04}") for n in range(500)]
            together.wait(30)
            try:
                add(inbox, *(batch[::-1] if backwards else batch))
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=post, args=(n % 2 == 0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert inbox.counts() == {"new": rounds * 500}


def test_a_failed_row_is_listed_and_replayed_from_where_it_failed(
    inbox: InboxRepository, engine: Engine
) -> None:
    add(inbox, event(1))
    [claimed] = inbox.claim(now=T0, lease_for=LEASE, limit=1)
    progress = {"pull_user": "done", "hook": {"error": "KeyError", "gave_up": True}}
    inbox.settle(
        [settled(claimed, state="failed", progress=progress, error="hook: KeyError")], now=T0
    )
    rows = StuckEventRepository(engine)
    [stuck] = rows.newest()
    assert rows.look(stuck.id) == stuck
    assert (stuck.state, stuck.error, stuck.trigger) == ("failed", "hook: KeyError", "login")
    assert rows.replay([stuck.id], now=T0) == 1
    assert not rows.discard(stuck.id)  # it is being tried
    [again] = inbox.claim(now=T0, lease_for=LEASE, limit=1)
    assert again.progress == {"pull_user": "done"}


def test_the_unreadable_is_kept_once_listed_and_discarded(
    inbox: InboxRepository, engine: Engine
) -> None:
    row = ("sha256:1", b"\x00\xff{", "not_json")
    assert inbox.add_unreadable("acme", Source.LOGS, [row], now=T0) == 1
    assert inbox.add_unreadable("acme", Source.LOGS, [row], now=T0) == 0
    rows = StuckEventRepository(engine)
    [stuck] = rows.newest()
    assert (stuck.raw, stuck.error, stuck.trigger) == (b"\x00\xff{", "not_json", None)
    assert rows.raw(stuck.id) == ("acme", Source.LOGS, b"\x00\xff{")
    assert inbox.claim(now=T0, lease_for=LEASE, limit=10) == []
    assert rows.discard(stuck.id)
    assert rows.newest() == []


def test_done_rows_are_forgotten_and_no_others(inbox: InboxRepository) -> None:
    add(inbox, event(1), event(2))
    [first, _] = inbox.claim(now=T0, lease_for=LEASE, limit=10)
    inbox.settle([settled(first)], now=T0)
    assert inbox.purge(before=T0) == 0
    assert inbox.purge(before=T0 + LEASE) == 1
    assert inbox.counts() == {"new": 1}


def test_the_oldest_wait_is_known(inbox: InboxRepository) -> None:
    assert inbox.oldest_age(now=T0) is None
    assert not inbox.due(now=T0)
    add(inbox, event(1))
    assert inbox.oldest_age(now=T0 + LEASE) == LEASE
    assert inbox.due(now=T0)
