"""The tenant's log is followed: nothing skipped, nothing that stops it for good."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence

import pytest

from tests.auth0.fakes import in_place
from tests.sync.world import World
from worker.domain.errors import ConfigurationError, TransientError
from worker.sync import LogPoll


@pytest.fixture
def world(sqlite_engine, vault) -> World:
    return World(sqlite_engine, vault)


class Fed:
    def __init__(self, fails: int = 0) -> None:
        self.ids: list[str] = []
        self.raw: list[bytes] = []
        self.gaps: list[str] = []
        self.fails = fails

    async def __call__(self, tenant: str, records: Sequence[bytes]) -> None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the store is away")
        self.raw += records
        self.ids += [found[1] for raw in records if (found := LOG_ID.search(raw.decode("latin-1")))]

    async def gap(self, tenant: str) -> None:
        self.gaps.append(tenant)


LOG_ID = re.compile(r'"log_id": ?"(\w+)"')


def poll(world: World, fed: Fed) -> LogPoll:
    return LogPoll({"acme": world.api}, world.shared, feed=fed, on_gap=fed.gap, offload=in_place)


def page(*ids: str) -> tuple[int, list[dict[str, str]]]:
    return 200, [{"log_id": log_id, "type": "s"} for log_id in ids]


async def test_the_log_is_followed_from_where_it_was_first_seen(world):
    world.auth0.on("/logs", page("7"), page("8", "9"), page())
    fed = Fed()
    assert await poll(world, fed).once("acme") == 0
    assert await poll(world, fed).once("acme") == 2
    assert fed.ids == ["8", "9"]
    assert world.shared.log_id == "9"


async def test_the_checkpoint_moves_only_after_the_records_are_safe(world):
    world.shared.log_id = "7"
    world.auth0.on("/logs", page("8"), page("8"), page())
    fed = Fed(fails=1)
    with pytest.raises(RuntimeError):
        await poll(world, fed).once("acme")
    assert world.shared.log_id == "7"
    assert await poll(world, fed).once("acme") == 1


async def test_a_checkpoint_older_than_the_retention_costs_no_more_than_what_is_gone(world):
    """What is left of the log is read from its beginning, and every user whom we know anew."""
    world.shared.log_id = "1"
    gone = (400, {"errorCode": "invalid_query_string"})
    world.auth0.on("/logs", gone, page("50", "51"), page("99"), page())
    fed = Fed()
    assert await poll(world, fed).once("acme") == 3
    assert (fed.ids, fed.gaps, world.shared.log_id) == (["50", "51", "99"], ["acme"], "99")


async def test_a_log_that_is_read_again_after_a_gap_goes_on_though_the_worker_was_killed(world):
    world.shared.log_id = "1"
    world.auth0.on("/logs", (400, {"errorCode": "x"}), page("50"), page("50"), page())
    with pytest.raises(RuntimeError):
        await poll(world, Fed(fails=1)).once("acme")
    fed = Fed()
    assert await poll(world, fed).once("acme") == 1
    assert fed.ids == ["50"]


MENDED_BY_THE_OPERATOR = {
    "a plan without the log": (403, {"errorCode": "insufficient_entitlement"}),
    "a scope, in words alone": (403, {"message": "Insufficient scope; expected any of: read:logs"}),
    "a wrong client secret": None,
}


@pytest.mark.parametrize("answer", MENDED_BY_THE_OPERATOR.values(), ids=MENDED_BY_THE_OPERATOR)
async def test_what_the_operator_has_to_mend_loses_no_checkpoint(world, answer):
    """Else the whole log would be read anew afterwards, and every user we know."""
    world.shared.log_id = "7"
    if answer is None:
        world.auth0.token_answer = (401, {"error": "access_denied"})
    else:
        world.auth0.on("/logs", answer)
    fed = Fed()
    with pytest.raises(ConfigurationError):
        await poll(world, fed).once("acme")
    assert (world.shared.log_id, fed.gaps) == ("7", [])


POISON: dict[str, bytes] = {
    "nested ten thousand deep": b'{"log_id": "8", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "half an emoji": b'{"log_id": "8", "user_name": "\\ud83d"}',
    "bad UTF-8": b'{"log_id": "8", "user_name": "\xff"}',
    "NaN": b'{"log_id": "8", "x": NaN}',
    "1e400": b'{"log_id": "8", "x": 1e400}',
    "a line break in a word": b'{"log_id": "8", "x": "a\nb"}',
}


@pytest.mark.parametrize("last", [False, True], ids=["within a page", "at its end"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["array", "object"])
@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
async def test_a_record_that_is_hard_to_read_does_not_stop_the_log(world, poison, wrapped, last):
    world.shared.log_id = "6"
    good = [b'{"log_id": "7"}', b'{"log_id": "9"}']
    records = [*good[:1], poison] if last else [good[0], poison, good[1]]
    body = b"[" + b", ".join(records) + b"]"
    world.auth0.on("/logs", (200, b'{"logs": ' + body + b"}" if wrapped else body), page())
    fed = Fed()
    assert await poll(world, fed).once("acme") == len(records)
    assert fed.raw == records
    assert world.shared.log_id == ("8" if last else "9")


async def test_an_answer_larger_than_anything_of_auth0s_is_not_read_to_its_end(world, monkeypatch):
    monkeypatch.setattr("worker.auth0.management._LONGEST", 1000)
    world.shared.log_id = "6"
    bomb = gzip.compress(b"[" + b" " * 1_000_000 + b"]")
    world.auth0.on("/logs", (200, bomb, {"content-encoding": "gzip"}))
    with pytest.raises(TransientError) as refused:
        await poll(world, Fed()).once("acme")
    assert refused.value.code == "answer_too_large"
    assert world.shared.log_id == "6"


async def test_records_without_ids_are_taken_once_and_not_for_ever(world):
    world.shared.log_id = "6"
    world.auth0.on("/logs", (200, [{"type": "s"}]))
    fed = Fed()
    assert await poll(world, fed).once("acme") == 1
    assert len(fed.raw) == 1


async def test_of_two_processes_at_one_log_one_gives_up_and_nothing_is_read_twice_over(world):
    """A mountain of records takes longer than the period, and then another process begins."""
    world.shared.log_id = "0"
    world.auth0.on("/logs", *(page(str(n)) for n in range(1, 40)), page())
    slow, fast = Fed(), Fed()

    async def overtaken(tenant: str, records: Sequence[bytes]) -> None:
        await slow(tenant, records)
        if len(slow.ids) == 3:  # meanwhile the other one has moved on
            await poll(world, fast).once(tenant, pages=10)

    one = LogPoll(
        {"acme": world.api}, world.shared, feed=overtaken, on_gap=slow.gap, offload=in_place
    )
    assert await one.once("acme") == 3
    assert world.shared.log_id == fast.ids[-1]
    assert len(fast.ids) == 10


async def test_a_missing_log_scope_is_said(world):
    world.shared.log_id = "1"
    world.auth0.on("/logs", (403, {"errorCode": "insufficient_scope"}))
    with pytest.raises(ConfigurationError):
        await poll(world, Fed()).once("acme")
