"""Which of Auth0's events call for work, and for which."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.events import payloads
from tests.events.payloads import FACTS, ROSA, US, api_write, log, login, prompt
from worker.domain.event import Source, Trigger
from worker.events import Reading, read_body


def read(body: bytes | dict[str, Any], facts: Any = FACTS, source: Source = Source.LOGS) -> Reading:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_body(raw, tenant=facts, source=source)


def told(record: dict[str, Any]) -> list[tuple[Trigger, str | None, str | None]]:
    return [(e.trigger, e.user_id, e.connection or e.connection_id) for e in read(record).events]


GOOGLE = [(Trigger.LOGIN, ROSA, "google-oauth2")]
GONE = "bitbucket|{6f1d2c3b-0000-4000-8000-000000000002}"
SYNCED = [(Trigger.SYNC, None, "acme-workspace")]
WARNED = [(Trigger.TENANT_WARNED, None, None)]
CHANGED = [(Trigger.USER_CHANGED, ROSA, None)]


def workspace(code: str) -> dict[str, Any]:
    return log(
        code, connection="acme-workspace", connection_id="con_gsuite", strategy="google-apps"
    )


def scim(method: str, path: str) -> dict[str, Any]:
    details = {"connection_id": "con_waad", "request": {"method": method, "path": path}}
    return log("sscim", client_id="", details=details)


CASES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "login at an identity provider": (login(), GOOGLE),
    "login, classic": (login(details={"prompts": [prompt("oauth2-authenticate")]}), GOOGLE),
    "login without prompts told, social": (login(details={}), GOOGLE),
    "login without details, social": (login(details=None), GOOGLE),
    "login without prompts told, enterprise": (
        login(details={}, strategy_type="enterprise"),
        GOOGLE,
    ),
    "login without prompts told, database": (login(details={}, strategy_type="database"), []),
    "login over a live session": (payloads.sso_login(), []),
    "login, then a second factor only": (login(details={"prompts": [prompt("mfa")]}), []),
    "login by password": (
        login(
            connection="Username-Password-Authentication",
            strategy="auth0",
            strategy_type="database",
            details={"prompts": [prompt("lock-password-authenticate")]},
        ),
        [],
    ),
    "the prompt names the identity that logged in, not the primary": (
        login(
            connection="other",
            details={"prompts": [prompt(connection="acme-bitbucket", identity="{6f}")]},
        ),
        [(Trigger.LOGIN, ROSA, "acme-bitbucket")],
    ),
    "signup at an identity provider": (
        login() | {"data": login()["data"] | {"type": "ss"}},
        GOOGLE,
    ),
    "native social login": (
        log("sens", user_id=ROSA, connection="google-oauth2", strategy="google-oauth2"),
        GOOGLE,
    ),
    "token exchange": (log("seacft", user_id=ROSA, connection_id=""), []),
    "logout": (log("slo", user_id=ROSA), []),
    "silent login": (log("ssa", user_id=ROSA), []),
    "failed login": (log("f", user_id=""), []),
    "Token Vault exchange": (log("seta", user_id=ROSA), []),
    "bulk import done": (log("sui"), []),
    "organisation member, id without prefix": (log("organization_member_added", user_id="1"), []),
    "a code of next year": (log("s_new_code", user_id=ROSA), []),
    "user deleted": (log("sdu", user_id=GONE), [(Trigger.USER_DELETED, GONE, None)]),
    "user edited": (
        api_write("patch", "/api/v2/users/google-oauth2%7C104857600000000000001"),
        CHANGED,
    ),
    "user edited, path not encoded": (api_write("PATCH", f"/api/v2/users/{ROSA}"), CHANGED),
    "user deleted by the API": (
        api_write("delete", f"/api/v2/users/{ROSA}"),
        [(Trigger.USER_DELETED, ROSA, None)],
    ),
    "accounts linked": (api_write("post", f"/api/v2/users/{ROSA}/identities"), CHANGED),
    "account unlinked": (
        api_write("delete", f"/api/v2/users/{ROSA}/identities/bitbucket/%7B6f1d%7D"),
        [*CHANGED, (Trigger.USER_CHANGED, "bitbucket|{6f1d}", None)],
    ),
    "roles given": (api_write("post", f"/api/v2/users/{ROSA}/roles"), []),
    "connection edited": (
        api_write("patch", "/api/v2/connections/con_gsuite?x=1"),
        [(Trigger.CONNECTION_CHANGED, None, "con_gsuite")],
    ),
    "connection deleted": (
        api_write("delete", "/api/v2/connections/con_gsuite"),
        [(Trigger.CONNECTION_CHANGED, None, "con_gsuite")],
    ),
    "client edited": (api_write("patch", "/api/v2/clients/x"), []),
    "our own read": (log("mgmt_api_read", client_id=US, user_id=f"{US}@clients"), []),
    "our own write": (api_write("patch", f"/api/v2/users/{ROSA}", user_id=f"{US}@clients"), []),
    "someone else's read": (log("mgmt_api_read", client_id="other"), []),
    "SCIM edit": (
        scim("patch", "/scim/v2/connections/con_waad/Users/waad%7Cx"),
        [(Trigger.USER_CHANGED, "waad|x", "con_waad")],
    ),
    "SCIM removal": (
        scim("delete", "/scim/v2/connections/con_waad/Users/waad%7Cx"),
        [(Trigger.USER_DELETED, "waad|x", "con_waad")],
    ),
    "SCIM edit by the provider's own id": (
        scim("patch", "/scim/v2/connections/con_waad/Users/x"),
        [(Trigger.USER_CHANGED, None, "con_waad")],
    ),
    "SCIM removal, in lower case": (
        scim("delete", "/scim/v2/connections/con_waad/users/samlp%7Cacme%7Cx"),
        [(Trigger.USER_DELETED, "samlp|acme|x", "con_waad")],
    ),
    "SCIM read": (scim("get", "/scim/v2/connections/con_waad/Users/waad%7Cx"), []),
    "SCIM search": (scim("get", "/scim/v2/connections/con_waad/Users/"), []),
    "SCIM creation, id not known yet": (scim("post", "/scim/v2/connections/con_waad/Users"), []),
    "directory sync begins": (workspace("directory_sync_started"), []),
    "directory sync done": (workspace("directory_sync_completed"), SYNCED),
    "directory sync failed": (workspace("directory_sync_failed"), SYNCED),
    "Token Vault account connected": (
        log("connected_accounts_connection_succeeded", user_id=ROSA),
        CHANGED,
    ),
    "rate limit": (log("api_limit"), WARNED),
    "rate limit near": (log("api_limit_warning"), WARNED),
    "rate limit that we hit ourselves": (log("api_limit", client_id=US), WARNED),
    "deprecation that names us": (log("depnote", client_id=US), WARNED),
    "deprecation that names us inside": (log("depnote", details={"clients": [US]}), WARNED),
    "deprecation of someone else's": (log("depnote", client_id="other"), []),
    "another tenant's stream": (login(tenant_name="someone-else"), []),
    "tenant not told": (login(tenant_name=None), GOOGLE),
    "integer user id": (login(user_id=12345), [(Trigger.LOGIN, "12345", "google-oauth2")]),
    "EventBridge": (payloads.event_bridge(login()), GOOGLE),
    "bare, as GET /logs gives it": (login()["data"] | {"_id": "9001", "isMobile": False}, GOOGLE),
    "user created": (payloads.cloud_event("user.created"), CHANGED),
    "user updated": (payloads.cloud_event("user.updated"), CHANGED),
    "user updated, other spelling": (
        {
            k: v
            for k, v in payloads.cloud_event("com.auth0.user.updated").items()
            if k != "specversion"
        }
        | {"spec_version": "1.0"},
        CHANGED,
    ),
    "user deleted, event stream": (
        payloads.cloud_event("user.deleted"),
        [(Trigger.USER_DELETED, ROSA, None)],
    ),
    "connection created": (
        payloads.connection_event("connection.created"),
        [(Trigger.CONNECTION_CHANGED, None, "acme-workspace")],
    ),
    "connection updated": (
        payloads.connection_event(),
        [(Trigger.CONNECTION_CHANGED, None, "acme-workspace")],
    ),
    "group": (payloads.cloud_event("group.created"), []),
    "test event": (payloads.cloud_event(a0purpose="test"), []),
    "unknown stream": (payloads.cloud_event(a0stream="est_unknown"), CHANGED),
    "another tenant's event stream": (payloads.cloud_event(a0tenant="someone-else"), []),
    "event stream by EventBridge": (payloads.event_bridge(payloads.cloud_event()), CHANGED),
    "event stream by its Action": (
        {"kind": "event-stream", "event": payloads.cloud_event()},
        CHANGED,
    ),
    "post-login Action": (payloads.action_message(), GOOGLE),
    "post-login Action at a token refresh": (
        payloads.action_message(protocol="oauth2-refresh-token"),
        [],
    ),
    "post-login Action, database": (
        payloads.action_message(connection={"name": "db", "strategy": "auth0"}),
        [],
    ),
    "post-login Action of another tenant": (payloads.action_message(tenant="someone-else"), []),
    "Action of another kind": (payloads.action_message(kind="post-challenge"), []),
}


@pytest.mark.parametrize(("record", "expected"), CASES.values(), ids=CASES)
def test_each_event_asks_for_what_it_means_and_no_more(
    record: dict[str, Any], expected: list[Any]
) -> None:
    assert told(record) == expected
    assert not read(record).unreadable


def test_a_database_that_brings_tokens_can_be_named() -> None:
    facts = replace(FACTS, database_connections=frozenset({"legacy"}))
    record = login(
        connection="legacy",
        strategy="auth0",
        strategy_type="database",
        details={"prompts": [prompt("lock-password-authenticate")]},
    )
    assert [event.connection for event in read(record, facts).events] == ["legacy"]


def test_nothing_but_ids_is_taken_from_an_event() -> None:
    """I22: a token, a profile or a verdict in a body goes no further."""
    record = login(details={"prompts": [prompt(access_token="SECRET-AT")], "email": "r@x.example"})
    [event] = read(record | {"access_token": "SECRET-AT"}).events
    assert "SECRET-AT" not in repr(event)
    assert "x.example" not in repr(event)


@pytest.mark.parametrize("form", payloads.FORMS.values(), ids=payloads.FORMS)
def test_every_form_of_body_is_read_the_same(form: Any) -> None:
    reading = read(form(login("1"), payloads.sso_login("2"), log("sdu", "3", user_id=ROSA)))
    assert [(e.delivery_id, e.trigger) for e in reading.events] == [
        ("1", Trigger.LOGIN),
        ("3", Trigger.USER_DELETED),
    ]
    assert (reading.ignored, reading.unreadable) == (1, [])


def test_a_batch_of_cloud_events_is_read() -> None:
    batch = payloads.array(payloads.cloud_event(event_id="a"), payloads.cloud_event(event_id="b"))
    assert [e.delivery_id for e in read(batch, source=Source.EVENTS).events] == ["a", "b"]


def test_an_event_whose_data_are_wrapped_once_more_is_read() -> None:
    """As samples of Event Stream Actions find them: `event.message.data.data.object`."""
    inner = {"data": {"object": {"user_id": ROSA}}}
    [event] = read(payloads.cloud_event("user.deleted", data=inner)).events
    assert (event.trigger, event.user_id) == (Trigger.USER_DELETED, ROSA)


def test_one_broken_line_costs_only_itself() -> None:
    body = payloads.jsonl(login("1")) + b'\n{"log_id": "2", "da\n' + payloads.jsonl(login("3"))
    reading = read(body)
    assert [e.delivery_id for e in reading.events] == ["1", "3"]
    assert [u.raw for u in reading.unreadable] == [b'{"log_id": "2", "da']


def test_a_record_without_an_id_is_known_by_its_content() -> None:
    record = login()["data"] | {"log_id": None}
    first, again = read(record).events[0], read(record).events[0]
    assert first.delivery_id == again.delivery_id
    assert first.delivery_id.startswith("sha256:")


NONSENSE: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "a number": b"5",
    "cut": b'{"log_id": "1", "data": {"type": "s"',
    "array cut": b'[{"log_id": "1"},',
    "deep": b'{"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep, unknown field": b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "bad UTF-8 in an id": json.dumps(login()).encode().replace(b"google-oauth2|1", b"\xff\xfe|1"),
    "NUL in an id": json.dumps(login(user_id="a\0b")).encode(),
    "CRLF in an id": json.dumps(login(user_id="a\r\nX: y")).encode(),
    "ANSI in an id": json.dumps(login(user_id="\x1b[31mred")).encode(),
    "lone surrogate in an id": json.dumps(login()).encode().replace(b"google-oauth2|1", b"\\ud800"),
    "endless id": json.dumps(login(user_id="x" * 5000)).encode(),
    "object for an id": json.dumps(login(user_id={"$ne": ""})).encode(),
    "true for an id": json.dumps(login(user_id=True)).encode(),
    "no user id": json.dumps(login(user_id="")).encode(),
    "type is a number": json.dumps(log("s") | {"data": {"type": 7}}).encode(),
    "no type": b'{"log_id": "1", "data": {}}',
    "CloudEvent without id": json.dumps(payloads.cloud_event(event_id="")).encode(),
    "CloudEvent without type": json.dumps(payloads.cloud_event(type=None)).encode(),
    "CloudEvent without data": b'{"specversion":"1.0","id":"e","type":"user.deleted"}',
    "sapi without request": json.dumps(log("sapi", details={})).encode(),
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_what_cannot_be_understood_is_kept_once_and_whole(body: bytes) -> None:
    reading = read(body)
    assert reading.events == []
    assert [u.raw for u in reading.unreadable] == [body[: 64 * 1024]]


ODD: dict[str, dict[str, Any]] = {
    "path in the id": login(user_id="auth0|../../connections"),
    "encoded slash": login(user_id="auth0|a%2fb"),
    "SQL": login(user_id="x'; DROP TABLE inbox;--"),
    "ten years ahead": login(date="2036-11-20T14:02:11Z"),
    "ten years ago": login(date="2016-11-20T14:02:11Z"),
    "no time": login(date="yesterday"),
    "fields of the future": login() | {"envelope": 2},
    "NaN": login(date=float("nan")),
    "half an emoji in a name": login(user_name="\ud83d"),
    "a number no machine holds": login(details={"prompts": [prompt()], "x": 10**400}),
}


@pytest.mark.parametrize("record", ODD.values(), ids=ODD)
def test_an_odd_record_is_an_event_like_any_other(record: dict[str, Any]) -> None:
    """An id is never built into a query or a path without quoting, and no time is believed."""
    [event] = read(record).events
    assert event.user_id == record["data"]["user_id"]


BROKEN: dict[str, bytes] = {
    "nested ten thousand deep": b'{"log_id": "x", "data": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "a comma too many": b'{"log_id": "x",, "data": {}}',
    "half an emoji in an id": json.dumps(login("x", user_id="\ud83d")).encode(),
}


@pytest.mark.parametrize("opened", [b"[", b'{"logs": ['], ids=["array", "object"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_in_a_batch_costs_only_itself(broken: bytes, opened: bytes) -> None:
    """In the forms as well that are one JSON text, which as a whole nobody can parse."""
    good = [json.dumps(login(str(n))).encode() for n in (1, 2)]
    closed = b"]" if opened == b"[" else b"]}"
    reading = read(opened + b", ".join([good[0], broken, good[1]]) + closed)
    assert [event.delivery_id for event in reading.events] == ["1", "2"]
    assert [one.raw for one in reading.unreadable] == [broken]


@pytest.mark.parametrize("kind", ["log", "event"])
def test_nobody_hides_his_deletion_by_what_he_nested_in_his_profile(kind: str) -> None:
    deep: Any = "x"
    if kind == "log":
        body = json.dumps(log("sdu", "1", user_id=ROSA, details={"body": deep})).encode()
    else:
        about = {"object": {"user_metadata": deep, "user_id": ROSA}}
        body = json.dumps(payloads.cloud_event("user.deleted", data=about)).encode()
    nested = body.replace(b'"x"', b'{"a":' * 5_000 + b"1" + b"}" * 5_000)
    [event] = read(nested).events
    assert (event.trigger, event.user_id) == (Trigger.USER_DELETED, ROSA)


def test_a_batch_that_was_cut_off_gives_what_is_whole() -> None:
    body = payloads.array(login("1"), login("2"), login("3"))
    reading = read(body[:-40])
    assert [event.delivery_id for event in reading.events] == ["1", "2"]
    assert len(reading.unreadable) == 1


def test_the_last_of_doubled_keys_counts_and_is_one_event() -> None:
    body = json.dumps(login("1")).encode().replace(b'"user_id"', b'"user_id": "no", "user_id"')
    assert [e.user_id for e in read(body).events] == [ROSA]


@given(body=st.binary(max_size=300))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    read(body)


CODES = ("s", "ss", "sens", "sdu", "sapi", "sscim", "directory_sync_failed", "depnote", "api_limit")
FIELDS = ("user_id", "connection", "details", "client_id", "strategy", "strategy_type", "date")
STRANGE: tuple[Any, ...] = (
    None,
    True,
    0,
    1.5,
    "",
    "x",
    [],
    [None],
    {},
    {"prompts": "x"},
    {"prompts": [None, "x", {"name": None}, {"name": ["federated-authenticate"]}]},
    {"prompts": [{"name": "federated-authenticate", "identity": {}}]},
    {"request": []},
    {"request": {"method": 1, "path": []}},
    {"request": {"method": "patch", "path": "/api/v2/users/"}},
    {"request": {"method": "patch", "path": "/api/v2//"}},
)


@pytest.mark.parametrize("code", CODES)
def test_no_shape_of_a_field_breaks_the_decision(code: str) -> None:
    for field in FIELDS:
        for strange in STRANGE:
            reading = read(log(code, **{"user_id": ROSA, field: strange}))
            assert len(reading.events) + len(reading.unreadable) + reading.ignored == 1
