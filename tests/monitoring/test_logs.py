"""No token gets into a log, whatever a careless line tries to print."""

import io
import json
import logging
import sys

import pytest

from worker.domain.secret import Secret
from worker.monitoring import logs

LEAKS = {
    "a JWT": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "a Google access token": "ya29.a0AfH6SMBx-canary",
    "a Google refresh token": "1//0gcanary_canary-canary",
    "a GitHub token": "ghu_canarycanarycanary12",
    "a Slack token": "xoxe-1-canarycanary",
    "a bearer header": "Authorization: Bearer canarycanary",
    "a form body": "grant_type=refresh_token&refresh_token=canary",
    "a query string": "https://graph.example/oauth?fb_exchange_token=canary&x=1",
    "a JSON answer": '{"access_token": "canary", "x": 1}',
    "a broker URL": "amqp://guest:canary@broker:5672//",
    "an opaque token": "canary" * 9,
    "one of our own keys": "evg_canarycanarycanary",
}


@pytest.fixture
def lines(monkeypatch):
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    before = logging.getLogger().handlers[:]
    logs.configure(json=True, role="test")
    yield lambda: [json.loads(line) for line in printed.getvalue().splitlines()]
    logging.getLogger().handlers[:] = before


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_whatever_looks_like_a_token_is_blanked(lines, leak):
    logs.logger("t").info("asked", answer=leak)
    logging.getLogger("library").warning("got %s", leak)
    printed = json.dumps(lines())
    assert "canary" not in printed
    assert "eyJ" not in printed


def test_a_traceback_is_blanked_too(lines):
    try:
        raise ValueError("Bearer canarycanary")
    except ValueError:
        logs.logger("t").exception("failed")
    assert "canary" not in json.dumps(lines())


def test_a_telling_key_and_a_secret_show_nothing_but_ids_stay(lines):
    logs.logger("t").info(
        "renewed",
        client_secret="x",
        value=Secret("canary"),
        code="invalid_grant",
        grant="5f0c8a52-1f6e-4c1e-8a6b-5f7b0f2f7a11",
        nested={"password": "canary"},
    )
    (line,) = lines()
    assert line["client_secret"] == logs.BLANK
    assert line["code"] == "invalid_grant"
    assert line["grant"] == "5f0c8a52-1f6e-4c1e-8a6b-5f7b0f2f7a11"
    assert line["role"] == "test"
    assert "canary" not in json.dumps(line)


def test_libraries_that_print_urls_are_silent(lines):
    logging.getLogger("httpx").info("HTTP Request: GET https://x/?access_token=canary")
    assert lines() == []
