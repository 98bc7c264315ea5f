"""The webhook doors, asked as Auth0 asks and as somebody else might (docs/bad-inputs.md)."""

from __future__ import annotations

import asyncio
import gzip
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine
from standardwebhooks import Webhook
from starlette.applications import Starlette

from tests.events.payloads import (
    ROSA,
    action_message,
    array,
    cloud_event,
    event_bridge,
    json_object,
    jsonl,
    log,
    login,
    sso_login,
)
from tests.events.world import World, offload
from worker.domain.secret import Secret
from worker.ingress import Bounds, TenantDoors, basic, bearer, custom, routes, verbatim

OLD, NEW = (b64encode(bytes([n]) * 24).decode() for n in (1, 2))
HUSH = "a made-up shared secret"
BOUNDS = Bounds(body=64 * 1024, signed_body=8 * 1024, seconds=0.2, requests=8)


class Front:
    """The doors, and somebody who knocks."""

    def __init__(self, world: World, bounds: Bounds = BOUNDS) -> None:
        self.world = world
        doors = {
            "acme": TenantDoors(
                logs=(verbatim(Secret(HUSH)),),
                events=(
                    bearer(Secret("t0ken")),
                    basic("auth0", Secret("pa:ss")),
                    custom("X-Evergrant", Secret("custom")),
                ),
                actions=(Secret(f"whsec_{OLD}"), Secret(NEW)),
            ),
            "other": TenantDoors(logs=(verbatim(Secret("the other's")),)),
            "third": TenantDoors(events=(bearer(Secret("the third's")),)),
        }
        app = Starlette(
            routes=routes(intake=world.intake, tenants=doors, offload=offload, bounds=bounds)
        )
        self.app = app
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://evergrant.test"
        )

    async def post(
        self, body: Any = b"", *headers: tuple[str, str], door: str = "logs", tenant: str = "acme"
    ) -> httpx.Response:
        sent = headers or (("Authorization", HUSH),)
        path = f"/hooks/auth0/{tenant}/{door}"
        return await self.http.post(path, content=body, headers=list(sent))

    @property
    def rows(self) -> dict[str, int]:
        return self.world.inbox.counts()


@pytest.fixture
def front(sqlite_engine: Engine, tmp_path: Path) -> Front:
    return Front(World(sqlite_engine, tmp_path))


def counts(response: httpx.Response) -> tuple[int, ...]:
    assert response.status_code == 202, response.text
    return tuple(response.json()[name] for name in ("accepted", "duplicate", "ignored"))


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "", "image/png"])
@pytest.mark.parametrize("form", [array, jsonl, json_object])
async def test_all_forms_are_taken_whatever_the_content_type(
    front: Front, form: Any, content_type: str
) -> None:
    body = form(login("1"), sso_login("2"), log("sdu", "3", user_id=ROSA))
    response = await front.post(body, ("Authorization", HUSH), ("Content-Type", content_type))
    assert counts(response) == (2, 0, 1)
    assert front.rows == {"new": 2}


REFUSED: dict[str, list[tuple[str, str]]] = {
    "no authentication": [("X-Nothing", "x")],
    "empty": [("Authorization", "")],
    "wrong": [("Authorization", "wrong")],
    "another tenant's": [("Authorization", "the other's")],
    "space before": [("Authorization", f"x {HUSH}")],
    "space inside": [("Authorization", HUSH.replace(" ", "  "))],
    "case": [("Authorization", HUSH.upper())],
    "with a scheme": [("Authorization", f"Bearer {HUSH}")],
    "look-alike letter": [("Authorization", HUSH.replace("a", "\u00e0"))],
    "twice": [("Authorization", HUSH), ("Authorization", HUSH)],
    "right and wrong": [("Authorization", HUSH), ("Authorization", "wrong")],
    "another door's": [("Authorization", "Bearer t0ken")],
    "in another header": [("X-Authorization", HUSH)],
}


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
async def test_who_does_not_know_the_secret_is_refused(
    front: Front, headers: list[tuple[str, str]]
) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    response = await front.post(array(login("1")), *encoded)  # type: ignore[arg-type]  # raw bytes
    assert response.status_code == 401
    assert front.rows == {}


@pytest.mark.parametrize(
    ("tenant", "door"),
    [("nobody", "logs"), ("nobody", "actions"), ("other", "events"), ("other", "actions")],
)
async def test_an_unknown_tenant_and_a_door_without_secret_answer_as_a_wrong_secret_does(
    front: Front, tenant: str, door: str
) -> None:
    wrong = await front.post(b"[]", ("Authorization", "wrong"))
    answer = await front.post(b"[]", ("Authorization", HUSH), tenant=tenant, door=door)
    assert (answer.status_code, answer.content, answer.headers) == (
        401,
        wrong.content,
        wrong.headers,
    )


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Bearer t0ken"),
        ("Authorization", f"Basic {b64encode(b'auth0:pa:ss').decode()}"),
        ("x-evergrant", "custom"),
    ],
)
async def test_event_streams_show_a_bearer_basic_or_custom_header(
    front: Front, header: tuple[str, str]
) -> None:
    body = json.dumps(cloud_event("user.deleted")).encode()
    assert counts(await front.post(body, header, door="events")) == (1, 0, 0)


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "t0ken"),
        ("Authorization", "bearer t0ken"),
        ("Authorization", "Basic t0ken"),
        ("Authorization", f"Basic {b64encode(b'auth0:pa').decode()}"),
        ("x-evergrant", "Custom"),
    ],
)
async def test_event_streams_with_anything_else_are_refused(
    front: Front, header: tuple[str, str]
) -> None:
    body = json.dumps(cloud_event("user.deleted")).encode()
    assert (await front.post(body, header, door="events")).status_code == 401
    assert front.rows == {}


REFUSED_AT_EVENTS: dict[str, list[tuple[str, str]]] = {
    "no authentication": [("X-Nothing", "x")],
    "empty": [("Authorization", "")],
    "wrong": [("Authorization", "Bearer wrong")],
    "another tenant's": [("Authorization", "Bearer the third's")],
    "another door's": [("Authorization", HUSH)],
    "space inside": [("Authorization", "Bearer  t0ken")],
    "case": [("Authorization", "Bearer T0KEN")],
    "look-alike letter": [("Authorization", "Bearer t0k\u0435n")],
    "twice": [("Authorization", "Bearer t0ken"), ("Authorization", "Bearer t0ken")],
    "right and wrong": [("Authorization", "Bearer t0ken"), ("Authorization", "wrong")],
    "the custom header twice": [("X-Evergrant", "custom"), ("X-Evergrant", "custom")],
    "in another header": [("X-Authorization", "Bearer t0ken")],
}


@pytest.mark.parametrize("form", ["event stream", "EventBridge"])
@pytest.mark.parametrize("headers", REFUSED_AT_EVENTS.values(), ids=REFUSED_AT_EVENTS)
async def test_who_does_not_know_an_event_streams_secret_is_refused(
    front: Front, headers: list[tuple[str, str]], form: str
) -> None:
    event = cloud_event("user.deleted")
    body = json.dumps(event if form == "event stream" else event_bridge(event)).encode()
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    response = await front.post(body, *encoded, door="events")  # type: ignore[arg-type]  # raw bytes
    assert response.status_code == 401
    assert front.rows == {}


def signed(
    body: bytes, *, secret: str = OLD, id_: str = "msg_1", age: float = 0
) -> list[tuple[str, str]]:
    at = datetime.now(UTC) - timedelta(seconds=age)
    return [
        ("webhook-id", id_),
        ("webhook-timestamp", str(int(at.timestamp()))),
        ("webhook-signature", Webhook(secret).sign(id_, at, body.decode())),
    ]


MESSAGE = json.dumps(action_message()).encode()


@pytest.mark.parametrize("secret", [OLD, NEW])
@pytest.mark.parametrize("age", [0, 290, -290])
async def test_a_signed_action_is_taken_under_each_secret_in_rotation(
    front: Front, secret: str, age: float
) -> None:
    response = await front.post(MESSAGE, *signed(MESSAGE, secret=secret, age=age), door="actions")
    assert counts(response) == (1, 0, 0)


async def test_a_signed_action_is_known_again_by_its_id(front: Front) -> None:
    await front.post(MESSAGE, *signed(MESSAGE), door="actions")
    assert counts(await front.post(MESSAGE, *signed(MESSAGE), door="actions")) == (0, 1, 0)


def _bad_signatures() -> Iterator[tuple[str, bytes, list[tuple[str, str]]]]:
    good = signed(MESSAGE)
    yield "no signature", MESSAGE, good[:2]
    yield "unknown secret", MESSAGE, signed(MESSAGE, secret=b64encode(b"x" * 24).decode())
    yield "too old", MESSAGE, signed(MESSAGE, age=310)
    yield "too new", MESSAGE, signed(MESSAGE, age=-310)
    yield "another body", MESSAGE + b" ", good
    yield "another id", MESSAGE, [("webhook-id", "msg_2"), *good[1:]]
    yield "two ids", MESSAGE, [("webhook-id", "msg_1"), *good]
    yield "two signatures headers", MESSAGE, [*good, good[2]]
    yield "time is a word", MESSAGE, [good[0], ("webhook-timestamp", "now"), good[2]]
    yield "time is not a number", MESSAGE, [good[0], ("webhook-timestamp", "nan"), good[2]]
    yield "no version", MESSAGE, [*good[:2], ("webhook-signature", good[2][1].split(",")[1])]
    yield "two commas", MESSAGE, [*good[:2], ("webhook-signature", good[2][1] + ",x")]
    yield "not base64", MESSAGE, [*good[:2], ("webhook-signature", "v1,***")]
    yield "version 2", MESSAGE, [*good[:2], ("webhook-signature", "v2" + good[2][1][2:])]
    yield "empty", MESSAGE, [*good[:2], ("webhook-signature", "")]
    yield "bad UTF-8 body", b"\xff" + MESSAGE, good


@pytest.mark.parametrize("how", [name for name, _, _ in _bad_signatures()])
async def test_an_action_not_signed_as_it_should_be_is_refused(front: Front, how: str) -> None:
    [(body, headers)] = [(b, h) for name, b, h in _bad_signatures() if name == how]  # signed now
    assert (await front.post(body, *headers, door="actions")).status_code == 401
    assert front.rows == {}


async def test_one_of_several_signatures_is_enough(front: Front) -> None:
    """As a sender in rotation sends them, ours second."""
    headers = signed(MESSAGE)
    other = signed(MESSAGE, secret=b64encode(b"x" * 24).decode())[2][1]
    headers[2] = ("webhook-signature", f"{other} {headers[2][1]}")
    assert counts(await front.post(MESSAGE, *headers, door="actions")) == (1, 0, 0)


async def test_nobody_can_sign_for_a_tenant_that_has_no_secret(front: Front) -> None:
    for guess in ("whsec_bm9ib2R5", b64encode(b"nobody").decode(), b64encode(b"\0" * 32).decode()):
        headers = signed(MESSAGE, secret=guess)
        response = await front.post(MESSAGE, *headers, door="actions", tenant="other")
        assert response.status_code == 401


AUTHENTIC: dict[str, tuple[bytes, int, dict[str, int]]] = {
    "nested ten thousand deep": (
        b'{"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        202,
        {"unreadable": 1},
    ),
    "NaN": (b'{"log_id": NaN}', 202, {"unreadable": 1}),
    "1e400": (json.dumps(login("1")).encode()[:-1] + b', "x": 1e400}', 202, {"new": 1}),
    "duplicate keys": (
        json.dumps(login("1")).encode()[:-1] + b', "log_id": "1"}',
        202,
        {"new": 1},
    ),
    "bad UTF-8": (
        json.dumps(login("1")).encode().replace(b"google-oauth2|1", b"\xff|1"),
        202,
        {"unreadable": 1},
    ),
    "NUL": (json.dumps(login("1", user_id="a\0b")).encode(), 202, {"unreadable": 1}),
    "a broken line among good ones": (
        jsonl(login("1")) + b'\n{"log_id":\n' + jsonl(login("2")),
        202,
        {"new": 2, "unreadable": 1},
    ),
    "one id sixty times": (jsonl(*[login("1")] * 60), 202, {"new": 1}),
    "one id, two bodies": (jsonl(login("1"), login("1", user_id="auth0|x")), 202, {"new": 1}),
    "ten years ahead": (array(login("1", date="2036-01-01T00:00:00Z")), 202, {"new": 1}),
    "ten years ago": (array(login("1", date="2016-01-01T00:00:00Z")), 202, {"new": 1}),
    "over the limit": (b" " * (BOUNDS.body + 1), 413, {"unreadable": 1}),
    "empty": (b"", 202, {"unreadable": 1}),
    "forged deletion": (array(log("sdu", "1", user_id=ROSA)), 202, {"new": 1}),
    "path in an id": (array(login("1", user_id="x/../../%2f|y")), 202, {"new": 1}),
    "SQL in an id": (array(login("1'; DROP TABLE inbox", user_id="' OR 1=1")), 202, {"new": 1}),
    "CRLF in an id": (array(login("1", user_id="a\r\nb")), 202, {"unreadable": 1}),
    "ANSI in an id": (array(login("1", user_id="\x1b[2Ja")), 202, {"unreadable": 1}),
    "unknown stream": (json.dumps(cloud_event(a0stream="est_x")).encode(), 202, {"new": 1}),
    "another tenant's event": (array(login("1", tenant_name="else")), 202, {}),
}


@pytest.mark.parametrize(("body", "status", "rows"), AUTHENTIC.values(), ids=AUTHENTIC)
async def test_what_is_authentic_is_kept_and_never_refused(
    front: Front, body: bytes, status: int, rows: dict[str, int]
) -> None:
    assert (await front.post(body)).status_code == status
    assert front.rows == rows


KEYS = {"logs": HUSH, "events": "Bearer t0ken"}


@pytest.mark.parametrize("door", KEYS)
async def test_a_gzip_bomb_is_cut_where_the_limit_is(front: Front, door: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = [("Authorization", KEYS[door]), ("Content-Encoding", "gzip")]
    assert len(bomb) < BOUNDS.body
    assert (await front.post(bomb, *headers, door=door)).status_code == 413
    assert front.rows == {"unreadable": 1}


async def test_an_action_is_signed_as_it_is_sent_and_never_unpacked(front: Front) -> None:
    bomb = gzip.compress(b" " * 5_000_000)
    assert len(bomb) < BOUNDS.signed_body
    headers = [*signed(MESSAGE), ("Content-Encoding", "gzip")]
    assert (await front.post(bomb, *headers, door="actions")).status_code == 401
    assert front.rows == {}


@pytest.mark.parametrize(("door", "kept"), [("events", {"unreadable": 1}), ("actions", {})])
async def test_a_body_over_the_limit_is_cut_off(front: Front, door: str, kept: Any) -> None:
    """Nothing is kept of what was not yet proven to come from the tenant."""
    key = ("Authorization", KEYS.get(door, HUSH))
    assert (await front.post(b" " * (BOUNDS.body + 1), key, door=door)).status_code == 413
    assert front.rows == kept


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate"])
async def test_a_compressed_body_is_unpacked(front: Front, encoding: str) -> None:
    import zlib

    pack = zlib.compress if encoding == "deflate" else gzip.compress
    headers = [("Authorization", HUSH), ("Content-Encoding", encoding)]
    assert counts(await front.post(pack(array(login("1"))), *headers)) == (1, 0, 0)


async def test_a_body_compressed_in_several_pieces_is_unpacked_to_its_end(front: Front) -> None:
    packed = gzip.compress(jsonl(login("1")) + b"\n") + gzip.compress(jsonl(login("2")))
    headers = [("Authorization", HUSH), ("Content-Encoding", "gzip")]
    assert counts(await front.post(packed, *headers)) == (2, 0, 0)


@pytest.mark.parametrize("pieces", [1, 2, 100])
async def test_a_bomb_in_several_pieces_is_cut_where_the_limit_is(
    front: Front, pieces: int
) -> None:
    packed = gzip.compress(b" " * (BOUNDS.body // pieces + 1)) * pieces
    headers = [("Authorization", HUSH), ("Content-Encoding", "gzip")]
    assert (await front.post(packed, *headers)).status_code == 413


PACKED = gzip.compress(jsonl(login("1")) + b"\n" + jsonl(login("2")))


@pytest.mark.parametrize(
    "body",
    [b"no gzip", PACKED[:-1], PACKED + b"more", PACKED + PACKED[:9], gzip.compress(b"") * 3_000],
    ids=["none at all", "cut at its end", "junk behind it", "a piece cut", "too many pieces"],
)
async def test_a_body_that_is_not_compressed_as_it_says_is_kept(front: Front, body: bytes) -> None:
    headers = [("Authorization", HUSH), ("Content-Encoding", "gzip")]
    assert (await front.post(body, *headers)).status_code == 202
    assert front.rows == {"unreadable": 1}


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b"[" * 1024


async def _drip() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(0.05)


async def _never() -> AsyncIterator[bytes]:
    yield b"["
    await asyncio.sleep(60)
    yield b"]"


class Wire:
    """A request by hand, for what no client would send."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.taken = 0
        self.status = 0

    async def receive(self) -> MutableMapping[str, Any]:
        piece = await anext(self._pieces)
        self.taken += len(piece)
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.status = message.get("status", self.status)


async def _knock(
    front: Front, pieces: AsyncIterator[bytes], door: str = "logs", secret: str = HUSH
) -> Wire:
    wire = Wire(pieces)
    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/hooks/auth0/acme/{door}",
        "headers": [(b"authorization", secret.encode())],
        "query_string": b"",
    }
    await front.app(scope, wire.receive, wire.send)
    return wire


@pytest.mark.parametrize(
    ("door", "limit"),
    [("logs", BOUNDS.body), ("events", BOUNDS.body), ("actions", BOUNDS.signed_body)],
)
async def test_an_endless_body_is_cut_at_the_limit(front: Front, door: str, limit: int) -> None:
    wire = await _knock(front, _endless(), door, KEYS.get(door, HUSH))
    assert wire.status == 413
    assert wire.taken <= limit + 1024


@pytest.mark.parametrize("pieces", [_drip, _never])
@pytest.mark.parametrize("door", ["logs", "events", "actions"])
async def test_a_body_that_drips_is_given_up_and_may_come_again(
    front: Front, pieces: Any, door: str
) -> None:
    knock = _knock(front, pieces(), door, KEYS.get(door, HUSH))
    wire = await asyncio.wait_for(knock, timeout=5)
    assert wire.status == 503
    assert front.rows == {}


async def test_not_a_byte_is_read_for_a_stranger(front: Front) -> None:
    wire = await _knock(front, _endless(), secret="wrong")
    assert (wire.status, wire.taken) == (401, 0)


async def test_a_sender_that_hangs_up_leaves_nothing_behind(front: Front) -> None:
    async def gone() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    wire = Wire(_never())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/hooks/auth0/acme/logs",
        "headers": [(b"authorization", HUSH.encode())],
        "query_string": b"",
    }
    await front.app(scope, gone, wire.send)
    assert (wire.status, front.rows) == (0, {})


async def test_too_many_at_once_are_asked_to_come_again(front: Front) -> None:
    slow = [asyncio.create_task(_knock(front, _never())) for _ in range(BOUNDS.requests)]
    await asyncio.sleep(0.01)
    assert (await front.post(array(login("1")))).status_code == 503
    await asyncio.gather(*slow)
    assert counts(await front.post(array(login("1")))) == (1, 0, 0)


async def test_strangers_who_let_bodies_drip_keep_no_known_sender_out(front: Front) -> None:
    """A signature can be checked only when its body is there, so anybody may send one."""
    drips = [
        asyncio.create_task(_knock(front, _never(), "actions")) for _ in range(BOUNDS.requests)
    ]
    await asyncio.sleep(0.01)
    assert counts(await front.post(array(login("1")))) == (1, 0, 0)
    assert (await front.post(b"", door="actions")).status_code == 503  # these are bounded too
    await asyncio.gather(*drips)


async def test_with_the_store_away_the_sender_still_hears_202(front: Front) -> None:
    front.world.store.away = True
    assert counts(await front.post(array(login("1")))) == (1, 0, 0)
    front.world.store.away = False
    front.world.intake.drain_spool()
    assert front.rows == {"new": 1}


async def test_with_neither_store_nor_spool_the_sender_hears_503(front: Front) -> None:
    front.world.store.away = True
    front.world.intake._spool = None
    response = await front.post(array(login("1")))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


async def test_no_secret_is_kept_in_the_clear() -> None:
    kept = repr(verbatim(Secret(HUSH))) + repr(bearer(Secret("t0ken")))
    assert HUSH not in kept
    assert HUSH.encode() != verbatim(Secret(HUSH)).digest


async def test_only_post_is_answered(front: Front) -> None:
    assert (await front.http.get("/hooks/auth0/acme/logs")).status_code == 405


async def test_what_eventbridge_passes_on_is_worked_off_like_the_stream_itself(
    front: Front,
) -> None:
    """An API destination posts each record as it is, its connection's key in a header."""
    key = ("X-Evergrant", "custom")
    for detail in (login("1"), cloud_event("user.updated", "evt_1"), sso_login("2")):
        answer = await front.post(json.dumps(event_bridge(detail)), key, door="events")
        assert answer.status_code == 202
    again = await front.post(json.dumps(event_bridge(login("1"))), key, door="events")
    assert again.json() == {"accepted": 0, "duplicate": 1, "ignored": 0}
    await front.world.work()
    assert front.rows == {"done": 2}
    assert front.world.pull.users == [("acme", ROSA)]
