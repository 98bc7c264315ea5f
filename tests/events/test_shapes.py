"""Events of old and of coming days: a field gone, one more, another type, in every place.

Each authentic record ends as an event, as unreadable (kept raw), or as one that calls for nothing;
and it may end as the last only where the field that was touched is one that decides that.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.events import payloads
from tests.events.payloads import FACTS, ROSA
from worker.domain.event import Source, Trigger
from worker.events import Reading, read_body

Path = tuple[Any, ...]

SHAPES: dict[str, dict[str, Any]] = {
    "login": payloads.login(),
    "native login": payloads.log("sens", user_id=ROSA, connection="apple", strategy="apple"),
    "deletion": payloads.log("sdu", user_id=ROSA, strategy="bitbucket"),
    "edit": payloads.api_write("patch", f"/api/v2/users/{ROSA}"),
    "scim": payloads.log("sscim", details={"request": {
        "method": "patch", "path": "/scim/v2/connections/con_waad/Users/waad%7Crosa"}}),
    "directory sync": payloads.log("directory_sync_failed", connection="acme-workspace"),
    "user event": payloads.cloud_event("user.deleted"),
    "connection event": payloads.connection_event(),
    "over EventBridge": payloads.event_bridge(payloads.login()),
    "event over EventBridge": payloads.event_bridge(payloads.cloud_event()),
    "action": payloads.action_message(),
    "log as the API lists it": {**payloads.login()["data"], "_id": "9001", "isMobile": False},
    "event without specversion": {
        k: v for k, v in payloads.cloud_event(event_id="evt_1").items() if k != "specversion"
    },
}  # fmt: skip

# Where a change may turn an event into one that calls for nothing: whose it is, what kind it is.
DECIDES = {
    "type", "kind", "detail", "detail-type", "tenant_name", "a0tenant", "a0purpose", "tenant",
    "client_id", "method", "path", "request", "strategy", "strategy_type", "name", "prompts",
    "details", "protocol", "connection", "data", "event", "logs", "specversion", "id",
}  # fmt: skip
WRONG: list[Any] = [
    None, 0, -1, 2**70, 1.5, True, "", "x" * 2000, "\x00\x1b[31m", "../../etc", [], ["x"], {},
    {"id": "x"}, [{}], "\ud800",
]  # fmt: skip


def places(value: Any, at: Path = ()) -> Iterator[Path]:
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def changed(record: dict[str, Any], at: Path, to: Any) -> dict[str, Any]:
    whole = copy.deepcopy(record)
    inner: Any = whole
    for key in at[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = to
    return whole


def read(record: Any) -> Reading:
    body = json.dumps(record).encode()
    return read_body(body, tenant=FACTS, source=Source.LOGS)


def triggers(reading: Reading) -> list[tuple[Trigger, str | None]]:
    return [(event.trigger, event.user_id) for event in reading.events]


@pytest.mark.parametrize("name", SHAPES)
def test_a_field_that_is_gone_or_of_another_type_loses_nothing(name: str) -> None:
    record = SHAPES[name]
    whole = triggers(read(record))
    assert whole
    for at in places(record):
        for to in (..., *WRONG):
            reading = read(changed(record, at, to))
            outcomes = len(reading.events) + len(reading.unreadable) + reading.ignored
            assert outcomes >= 1, (at, to)
            if reading.ignored:
                assert DECIDES & {key for key in at if isinstance(key, str)}, (at, to)


@pytest.mark.parametrize("name", SHAPES)
def test_a_field_of_whose_tenant_it_is_excludes_only_another_tenants_name(name: str) -> None:
    for at in places(SHAPES[name]):
        if at[-1] in ("tenant_name", "a0tenant", "tenant"):
            for to in (..., None, "", {"id": "acme-dev"}, ["acme-dev"], 7):
                reading = read(changed(SHAPES[name], at, to))
                assert not reading.ignored, (at, to)
            assert read(changed(SHAPES[name], at, "somebody-else")).ignored


@pytest.mark.parametrize("name", SHAPES)
@given(
    more=st.dictionaries(
        st.text(max_size=8).map(lambda key: f"x_{key}"),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=5,
        ),
        max_size=4,
    ),
    data=st.data(),
)
def test_fields_that_nobody_knows_yet_change_nothing(
    name: str, more: dict[str, Any], data: st.DataObject
) -> None:
    record = SHAPES[name]
    inside = [(), *(at for at in places(record) if isinstance(_at(record, at), dict))]
    at = data.draw(st.sampled_from(inside))
    whole = copy.deepcopy(record)
    _at(whole, at).update(more)
    assert triggers(read(whole)) == triggers(read(record))


@given(code=st.text(max_size=12))
def test_codes_that_nobody_knows_yet_are_taken_and_call_for_nothing(code: str) -> None:
    from worker.events import log_codes

    reading = read(payloads.log(code))
    known = code in log_codes._DECISIONS
    assert known or (reading.ignored, reading.events, reading.unreadable) == (1, [], [])


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_a_sender_sends_is_accounted_for(body: bytes) -> None:
    reading = read_body(body, tenant=FACTS, source=Source.EVENTS)
    empty = not body.removeprefix(b"\xef\xbb\xbf").strip() or body.strip() == b"[]"
    assert empty or reading.events or reading.unreadable or reading.ignored


def _at(record: Any, at: Path) -> Any:
    for key in at:
        record = record[key]
    return record
