"""Faults are switched while the stage plays, and the ledger knows what they cost."""

from __future__ import annotations

import time
from contextlib import suppress

import httpx
import pytest

from tests.rehearsal.conftest import HTTP, api, identity, refresh
from worker.rehearsal import ControlError, RunningStage

CONNECTION, PROVIDER = "acme-okta", "okta"


def logged_in(stage: RunningStage) -> str:
    return str(identity(stage, stage.login(CONNECTION, "rosa")).refresh_token)


@pytest.mark.parametrize(
    ("profile", "status", "text"),
    [
        ("rate_limited", 429, "slow_down"),
        ("unavailable", 503, "temporarily_unavailable"),
        ("html_200", 200, "<!doctype html>"),
        ("html_502", 502, "<!doctype html>"),
        ("error_200", 200, "server_error"),
        ("no_access_token", 200, "token_type"),
        ("redirect", 307, ""),
        ("invalid_client", 401, "invalid_client"),
        ("invalid_grant", 400, "invalid_grant"),
    ],
)
def test_a_fault_that_does_nothing_costs_no_token(
    stage: RunningStage, profile: str, status: int, text: str
) -> None:
    token = logged_in(stage)
    stage.do("faults", provider=PROVIDER, profile=profile, count=1)
    answer = refresh(stage, CONNECTION, token)
    assert answer.status_code == status
    assert text in answer.text
    assert refresh(stage, CONNECTION, token).status_code == 200
    assert stage.ledger()["total"]["answers_lost"] == 0
    assert stage.ledger()["total"]["reused_in_grace"] == 0


@pytest.mark.parametrize("profile", ["drop", "reset_after", "cut", "html_502_after"])
def test_an_answer_that_is_kept_back_is_counted_as_lost(stage: RunningStage, profile: str) -> None:
    token = logged_in(stage)
    stage.do("faults", provider=PROVIDER, profile=profile, count=1)
    with suppress(httpx.TransportError):
        assert refresh(stage, CONNECTION, token).status_code == 502
    assert refresh(stage, CONNECTION, token).status_code == 200  # inside the grace
    total = stage.ledger()["total"]
    assert (total["answers_lost"], total["reused_in_grace"], total["exchanges"]) == (1, 1, 2)


@pytest.mark.parametrize("profile", ["drop_before", "reset"])
def test_a_connection_that_breaks_before_the_act_costs_nothing(
    stage: RunningStage, profile: str
) -> None:
    token = logged_in(stage)
    stage.do("faults", provider=PROVIDER, profile=profile, count=1)
    with pytest.raises(httpx.TransportError):
        refresh(stage, CONNECTION, token)
    assert stage.ledger()["total"]["exchanges"] == 0


@pytest.mark.parametrize("at", [0, 1, 12, 60, 150, 300])
def test_an_answer_can_be_cut_at_any_byte(stage: RunningStage, at: int) -> None:
    token = logged_in(stage)
    stage.do("faults", provider=PROVIDER, profile="cut", cut_at=at, count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        refresh(stage, CONNECTION, token)


def test_a_trickled_answer_arrives_whole(stage: RunningStage) -> None:
    token = logged_in(stage)
    stage.do("faults", provider=PROVIDER, profile="trickle", every=0.001, count=1)
    assert refresh(stage, CONNECTION, token).status_code == 200
    assert stage.ledger()["total"]["answers_lost"] == 0


def test_a_client_that_does_not_wait_loses_the_answer(stage: RunningStage) -> None:
    token = logged_in(stage)
    options = stage.stage.tenant.connections[CONNECTION].options
    stage.do("faults", provider=PROVIDER, profile="slow_answer", delay_after=0.4, count=1)
    with pytest.raises(httpx.ReadTimeout):
        HTTP.post(
            options["token_endpoint"],
            data={"grant_type": "refresh_token", "refresh_token": token},
            auth=(options["client_id"], options["client_secret"]),
            timeout=0.1,
        )
    deadline = time.monotonic() + 5
    while not stage.ledger()["total"]["answers_lost"]:
        assert time.monotonic() < deadline


def test_a_fault_ends_by_itself(stage: RunningStage) -> None:
    token = logged_in(stage)
    stage.do("faults", provider=PROVIDER, profile="unavailable", for_seconds=0.3)
    assert stage.ledger()["faults"] == {"okta": ["unavailable"]}
    assert refresh(stage, CONNECTION, token).status_code == 503
    deadline = time.monotonic() + 5
    while refresh(stage, CONNECTION, token).status_code == 503:
        assert time.monotonic() < deadline
    assert stage.ledger()["faults"] == {}


def test_a_fault_touches_its_provider_only(stage: RunningStage) -> None:
    token = logged_in(stage)
    stage.do("faults", provider="waad", profile="unavailable")
    assert refresh(stage, CONNECTION, token).status_code == 200
    stage.do("clear_faults", where="waad")
    stage.do("faults", profile="unavailable")  # everywhere
    assert refresh(stage, CONNECTION, token).status_code == 503


def test_the_tenant_itself_can_fail(stage: RunningStage) -> None:
    fault = {"provider": "auth0", "profile": "unavailable", "endpoint": "management", "count": 1}
    with api(stage) as http:
        stage.do("faults", **fault)
        assert http.get("/connections").status_code == 503
        assert http.get("/connections").status_code == 200


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("faults", {"profile": "nonsense"}, "unknown profile"),
        ("faults", {"profile": "slow", "provider": "nobody"}, "unknown provider"),
        ("faults", {"profile": "slow", "colour": "red"}, "unknown field"),
        ("login", {"connection": "nobody", "subject": "x"}, "no connection"),
        ("delete_user", {"user_id": "nobody"}, "no user"),
        ("juggle", {}, "no such command"),
    ],
)
def test_the_control_desk_says_what_it_does_not_understand(
    stage: RunningStage, command: str, arguments: dict[str, str], says: str
) -> None:
    with pytest.raises(ControlError, match=says):
        stage.do(command, **arguments)


def test_the_counter_page_shows_each_grant(stage: RunningStage) -> None:
    token = logged_in(stage)
    refresh(stage, CONNECTION, token)
    page = HTTP.get(stage.base_url)
    assert page.headers["content-type"].startswith("text/html")
    assert "okta · rosa" in page.text
    assert token not in page.text
    assert stage.grants(subject="rosa")[0]["exchanges"] == 1
