"""What an older version kept raw is read again by a newer one."""

from __future__ import annotations

import json

import pytest

from tests.events.payloads import ROSA, array, log
from tests.events.world import World
from worker.domain.event import Source
from worker.events import log_codes, reread


def newer(code: str) -> bytes:
    """A record whose fields a coming version of Auth0 might write otherwise."""
    return array(log(code, "77", user_id={"id": ROSA}))


async def test_an_event_of_a_shape_to_come_is_worked_off_once_it_is_understood(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.deliver(newer("sdu"))
    assert world.inbox.counts() == {"unreadable": 1}
    assert reread(world.intake, world.stuck) == (0, 1)  # not yet
    assert world.inbox.counts() == {"unreadable": 1}

    required = log_codes._required
    monkeypatch.setattr(
        log_codes,
        "_required",
        lambda told: required(told["id"] if isinstance(told, dict) else told),
    )
    assert reread(world.intake, world.stuck) == (1, 0)
    assert world.inbox.counts() == {"new": 1}
    await world.work()
    assert world.pull.users == [("acme", ROSA)]


def test_only_the_rows_named_are_read_and_half_a_row_stays(world: World) -> None:
    good, bad = log("sdu", "1", user_id=ROSA), log("sdu", "2", user_id=["x"])
    body = b"\n".join(json.dumps(one).encode() for one in (good, bad))
    world.inbox.add_unreadable(
        "acme", Source.LOGS, [("sha256:1", body, "bad_id"), ("sha256:2", b"{", "not_json")],
        now=world.clock.now(),
    )  # fmt: skip
    first, second = world.stuck.unreadable()
    assert reread(world.intake, world.stuck, [second]) == (0, 1)
    assert world.inbox.counts() == {"unreadable": 2}
    assert reread(world.intake, world.stuck, [first]) == (0, 1)
    assert world.inbox.counts() == {"new": 1, "unreadable": 2}


def test_a_tenant_that_was_removed_keeps_its_rows(world: World) -> None:
    world.inbox.add_unreadable(
        "gone", Source.LOGS, [("sha256:1", b"{", "not_json")], now=world.clock.now()
    )
    assert reread(world.intake, world.stuck) == (0, 1)
