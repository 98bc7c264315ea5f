"""The Action that we ship, run by Node as Auth0 runs it, knocks at our own door."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.events.payloads import FACTS, ROSA
from tests.ingress.test_doors import NEW
from worker.domain.event import Source, Trigger
from worker.domain.secret import Secret
from worker.events import read_body
from worker.ingress.authentication import signed_id

SNIPPET = Path(__file__).parents[2] / "docs" / "snippets" / "action.js"
RUN = """
const action = require(process.argv[1]);
const { trigger, event } = JSON.parse(process.argv[2]);
action[trigger](event).then(() => console.log('the login goes on'));
"""
EVENT = {
    "tenant": {"id": "acme-dev"},
    "user": {"user_id": ROSA, "email": "rosa@acme.example"},
    "connection": {"id": "con_google", "name": "google-oauth2", "strategy": "google-oauth2"},
    "client": {"client_id": "portal"},
    "transaction": {"id": "tx-1", "protocol": "oidc-basic-profile"},
}


def run(trigger: str, event: dict[str, Any], url: str) -> str:
    node = shutil.which("node")
    if node is None:
        required = os.environ.get("EVERGRANT_REQUIRE_SERVICES") == "1"
        (pytest.fail if required else pytest.skip)("no server: node (Debian: nodejs)")
    told = event | {"secrets": {"EVERGRANT_URL": url, "EVERGRANT_SECRET": f"whsec_{NEW}"}}
    done = subprocess.run(
        [node, "-e", RUN, str(SNIPPET), json.dumps({"trigger": trigger, "event": told})],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


class Door:
    """One address that hears, and answers as told (or never)."""

    def __init__(self, status: int = 202) -> None:
        self.heard: list[tuple[list[tuple[bytes, bytes]], bytes]] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = [(k.lower().encode(), v.encode()) for k, v in self.headers.items()]
                heard.append((headers, body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_args: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks/auth0/acme/actions"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_what_it_sends_is_signed_and_read_as_a_login() -> None:
    door = Door()
    assert "the login goes on" in run("onExecutePostLogin", EVENT, door.url)
    door.close()
    [(headers, body)] = door.heard
    delivery_id = signed_id([Secret(NEW)], headers, body)
    assert delivery_id
    reading = read_body(body, tenant=FACTS, source=Source.ACTIONS, delivery_id=delivery_id)
    [event] = reading.events
    assert (event.trigger, event.user_id, event.delivery_id) == (Trigger.LOGIN, ROSA, delivery_id)
    assert b"rosa@acme.example" not in body


def test_the_event_stream_trigger_passes_the_event_on() -> None:
    door = Door()
    cloud = {
        "specversion": "1.0",
        "id": "evt_1",
        "type": "user.deleted",
        "data": {"object": {"user_id": ROSA}},
    }
    run("onExecuteEventStream", {"message": cloud}, door.url)
    door.close()
    [(_, body)] = door.heard
    [event] = read_body(body, tenant=FACTS, source=Source.ACTIONS, delivery_id="msg_1").events
    assert (event.trigger, event.delivery_id) == (Trigger.USER_DELETED, "evt_1")


def test_a_token_refresh_is_not_told() -> None:
    door = Door()
    refresh = EVENT | {"transaction": {"protocol": "oauth2-refresh-token"}}
    assert "the login goes on" in run("onExecutePostLogin", refresh, door.url)
    door.close()
    assert door.heard == []


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def federated(*ages: float) -> dict[str, Any]:
    methods = [{"name": "federated", "timestamp": ago(age)} for age in ages]
    return {"authentication": {"methods": [*methods, {"name": "mfa", "timestamp": ago(1)}]}}


LIVE_SESSIONS: dict[str, dict[str, Any]] = {
    "asked not to prompt": {"request": {"query": {"prompt": "none"}}},
    "the provider was asked an hour ago": federated(3600),
    "and before": federated(3600, 7200),
}


@pytest.mark.parametrize("more", LIVE_SESSIONS.values(), ids=LIVE_SESSIONS)
def test_a_login_over_a_live_session_is_not_told(more: dict[str, Any]) -> None:
    door = Door()
    assert "the login goes on" in run("onExecutePostLogin", EVENT | more, door.url)
    door.close()
    assert door.heard == []


AT_THE_PROVIDER: dict[str, Callable[[], dict[str, Any]]] = {  # made when it is told: time passes
    "just now": lambda: federated(20),
    "once more in one session": lambda: federated(3600, 20),
    "at a time that nobody can read": lambda: {
        "authentication": {"methods": [{"name": "federated", "timestamp": "then"}]}
    },
    "nothing is told of how": lambda: {"authentication": None, "request": {"query": None}},
    "in a form to come": lambda: {"authentication": {"methods": {"federated": ago(3600)}}},
    "with holes": lambda: {"authentication": {"methods": [None, 7, "federated"]}},
    "another prompt": lambda: {"request": {"query": {"prompt": "login"}}},
}


@pytest.mark.parametrize("more", AT_THE_PROVIDER.values(), ids=AT_THE_PROVIDER)
def test_a_login_at_the_provider_is_told_and_so_is_one_of_which_little_is_known(
    more: Callable[[], dict[str, Any]],
) -> None:
    door = Door()
    run("onExecutePostLogin", EVENT | more(), door.url)
    door.close()
    assert len(door.heard) == 1


@pytest.mark.parametrize("status", [401, 500, 302])
def test_a_refusal_does_not_fail_the_login(status: int) -> None:
    door = Door(status)
    assert "the login goes on" in run("onExecutePostLogin", EVENT, door.url)
    door.close()


def test_nobody_there_does_not_fail_the_login() -> None:
    assert "the login goes on" in run("onExecutePostLogin", EVENT, "http://127.0.0.1:1/")


async def test_a_door_that_never_answers_costs_two_seconds() -> None:
    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(20)
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    told = await asyncio.wait_for(asyncio.to_thread(run, "onExecutePostLogin", EVENT, url), 15)
    server.close()
    assert "evergrant was not told: TimeoutError" in told
    assert "the login goes on" in told
