"""Nothing is acknowledged before it is durable, in the store or beside it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.events.payloads import array, login, sso_login
from tests.events.world import World, offload
from worker.domain.errors import TransientError
from worker.domain.event import Source
from worker.events import Counts, Reading, Spool
from worker.events import accept as accept_module


def test_a_batch_is_counted_and_rings_once(world: World) -> None:
    body = array(login("1"), login("2"), login("2"), sso_login("3"))
    assert world.deliver(body) == Counts(accepted=2, duplicate=1, ignored=1)
    assert world.rings == 1


def test_a_repeat_rings_nobody(world: World) -> None:
    world.deliver(array(login("1")))
    assert world.deliver(array(login("1"))) == Counts(duplicate=1)
    assert world.rings == 1


def test_the_same_id_with_another_body_is_the_same_delivery(world: World) -> None:
    world.deliver(array(login("1")))
    assert world.deliver(array(login("1", user_id="auth0|someone"))) == Counts(duplicate=1)


def test_the_unreadable_is_kept_and_accepted(world: World) -> None:
    assert world.deliver(b"not json at all") == Counts(accepted=1)
    assert world.deliver(b"not json at all") == Counts(duplicate=1)
    assert [row.raw for row in world.stuck.newest()] == [b"not json at all"]


def test_while_the_store_is_away_events_wait_on_disk(world: World) -> None:
    world.store.away = True
    assert world.deliver(array(login("1"), login("2"))) == Counts(accepted=2)
    assert world.deliver(b"nonsense") == Counts(accepted=1)
    world.store.away = False
    assert world.intake.drain_spool() == 2
    assert world.inbox.counts() == {"new": 2, "unreadable": 1}
    assert not world.spool.waiting()


def test_a_store_away_is_not_asked_for_every_delivery(world: World) -> None:
    world.store.away = True
    for number in range(50):
        world.deliver(array(login(str(number))))
    assert world.store.asked == 1
    world.clock.advance(3)
    world.store.away = False
    world.deliver(array(login("back")))
    assert world.inbox.counts() == {"new": 1}


def test_a_drain_that_the_store_cuts_short_loses_and_doubles_nothing(world: World) -> None:
    world.store.away = True
    for number in range(10):
        world.deliver(array(login(str(number))))
    with pytest.raises(TransientError):
        world.intake.drain_spool()
    world.store.away = False
    assert world.intake.drain_spool() == 10
    assert world.inbox.counts() == {"new": 10}


def test_without_store_and_spool_the_sender_is_told_to_come_again(world: World) -> None:
    world.store.away = True
    world.intake._spool = Spool(world.spool._path.parent, limit=10)
    with pytest.raises(TransientError):
        world.deliver(array(login("1")))


def test_a_torn_line_swallows_no_later_one(tmp_path: Path, world: World) -> None:
    """A crash cut the first write; its sender never heard 2xx. The next line is whole."""
    spool = Spool(tmp_path / "s")
    (tmp_path / "s" / "inbox.spool").write_bytes(b'\n{"tenant":"acme","source":"logs","ev')
    reading = world.intake.read("acme", Source.LOGS, array(login("1")))
    spool.append("acme", Source.LOGS, reading)
    taken: list[Reading] = []
    assert spool.drain(lambda _tenant, _source, reading: taken.append(reading)) == 1
    assert taken[0].events == reading.events


def test_the_spool_is_private_and_no_symlink_is_followed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s")
    spool.append("acme", Source.LOGS, Reading())
    assert (tmp_path / "s" / "inbox.spool").stat().st_mode & 0o077 == 0
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "inbox.spool").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TransientError):
        Spool(tmp_path / "t").append("acme", Source.LOGS, Reading())


def test_many_threads_append_whole_lines(tmp_path: Path, world: World) -> None:
    spool = Spool(tmp_path / "s")

    def write(worker: int) -> None:
        for number in range(5):
            body = array(login(f"{worker}-{number}"))
            spool.append("acme", Source.LOGS, world.intake.read("acme", Source.LOGS, body))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen: list[str] = []
    spool.drain(lambda _t, _s, reading: seen.extend(e.delivery_id for e in reading.events))
    assert len(set(seen)) == len(seen) == 20


async def test_a_store_that_hangs_does_not_hang_the_sender(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept_module, "_PATIENCE", 0.05)
    frozen = threading.Event()

    def hang(*_args: Any, **_kwargs: Any) -> int:
        frozen.wait(10)
        return 1

    monkeypatch.setattr(world.inbox, "add", hang)
    answers = [
        await world.intake.receive("acme", Source.LOGS, array(login(str(n))), offload=offload)
        for n in range(3)
    ]
    frozen.set()
    await asyncio.sleep(0)
    assert answers == [Counts(accepted=1)] * 3
    assert world.spool.waiting()
