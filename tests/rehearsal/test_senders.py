"""The tenant's webhooks arrive in Auth0's shapes and by Auth0's retry rules."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.rehearsal.conftest import Start, api
from tests.rehearsal.receiver import Received, Receiver, receiving
from worker.rehearsal import RunningStage
from worker.rehearsal.senders import authorization_headers


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def quick(start: Start) -> RunningStage:
    """A stage whose senders wait a hundredth of what Auth0 waits."""
    return start(pace=0.01)


def _records(got: Received, body_format: str) -> list[Any]:
    if body_format == "JSONLINES":
        return [json.loads(line) for line in got.body.splitlines()]
    body = json.loads(got.body)
    return list(body["logs"] if body_format == "JSONOBJECT" else body)


@pytest.mark.parametrize("body_format", ["JSONLINES", "JSONARRAY", "JSONOBJECT"])
def test_a_login_arrives_in_each_body_format(
    quick: RunningStage, receiver: Receiver, body_format: str
) -> None:
    """The Authorization value is sent verbatim, without a scheme added."""
    logs = {"url": receiver.url, "authorization": "shared secret", "body_format": body_format}
    quick.do("send_to", logs=logs)
    quick.login("google-oauth2", "rosa")
    receiver.wait_for(lambda got: b'"s"' in b"".join(one.body for one in got))
    got = receiver.received[0]
    records = [record for one in receiver.received for record in _records(one, body_format)]
    login = next(record for record in records if record["data"]["type"] == "s")
    assert got.headers["authorization"] == "shared secret"
    assert login["log_id"] == login["data"]["log_id"]
    assert login["data"]["user_id"] == "google-oauth2|rosa"
    assert login["data"]["details"]["prompts"][0]["name"] == "federated-authenticate"
    assert b"ya29." not in got.body  # no token is ever part of a record


def test_a_login_over_a_living_session_names_no_connection(
    quick: RunningStage, receiver: Receiver
) -> None:
    """elastic/integrations packages/auth0, pipeline/test-login-success.json"""
    user_id = quick.login("google-oauth2", "rosa")
    quick.do("send_to", logs={"url": receiver.url, "authorization": "x"})
    quick.do("sso_login", user_id=user_id)
    receiver.wait_for(lambda got: len(got) == 1)
    data = json.loads(receiver.received[0].body)[0]["data"]
    assert data["type"] == "s"
    assert (data["connection_id"], data["strategy"]) == ("", "")
    assert "connection" not in data
    assert data["details"]["prompts"] == []


def test_a_failed_batch_comes_again_until_it_is_taken(
    quick: RunningStage, receiver: Receiver
) -> None:
    """Three attempts, then the process starts over with the record that failed."""
    receiver.statuses = [500, 503, 404, 500, 202]
    quick.do("send_to", logs={"url": receiver.url, "authorization": "x"})
    quick.login("github", "rosa")
    receiver.wait_for(lambda got: len(got) == 5)
    ids = [[record["log_id"] for record in json.loads(one.body)] for one in receiver.received]
    assert all(each[0] == ids[0][0] for each in ids)
    assert len(ids[4]) == 2  # the sign-up and the login


def test_batches_may_come_twice_and_shuffled(quick: RunningStage, receiver: Receiver) -> None:
    logs = {"url": receiver.url, "authorization": "x", "shuffled": True, "doubled": 1.0}
    quick.do("pause_logs")
    quick.do("send_to", logs=logs)
    subjects = [f"user{n}" for n in range(30)]
    quick.do("logins", connection="github", subjects=subjects)
    receiver.wait_for(lambda got: sum(len(json.loads(one.body)) for one in got) == 120)
    ids = [record["log_id"] for one in receiver.received for record in json.loads(one.body)]
    assert len(set(ids)) == 60
    assert ids != sorted(ids)


def test_a_paused_stream_keeps_its_place(quick: RunningStage, receiver: Receiver) -> None:
    quick.do("send_to", logs={"url": receiver.url, "authorization": "x", "paused": True})
    quick.login("github", "rosa")
    assert receiver.received == []
    quick.do("pause_logs", paused=False)
    receiver.wait_for(lambda got: len(got) == 1)


@pytest.mark.parametrize(
    ("method", "values", "header", "value"),
    [
        ("bearer", {"token": "t"}, "Authorization", "Bearer t"),
        ("basic", {"username": "u", "password": "p"}, "Authorization", "Basic dTpw"),
        ("custom_header", {"header_key": "X-Key", "header_value": "v"}, "X-Key", "v"),
    ],
)
def test_event_streams_authenticate_in_three_ways(
    method: str, values: dict[str, str], header: str, value: str
) -> None:
    assert authorization_headers(method, **values) == {header: value}


def test_events_are_cloudevents_without_tokens(quick: RunningStage, receiver: Receiver) -> None:
    quick.do("send_to", events={"url": receiver.url, "bearer": "events-secret"})
    user_id = quick.login("acme-bitbucket", "rosa")
    receiver.wait_for(lambda got: len(got) == 1)
    got = receiver.received[0]
    event = json.loads(got.body)
    assert got.headers["authorization"] == "Bearer events-secret"
    assert event["specversion"] == "1.0"
    assert event["type"] == "user.created"
    assert event["id"].startswith("evt_")
    assert len(event["id"]) == 26
    assert event["a0tenant"] == "rehearsal"
    assert event["data"]["object"]["user_id"] == user_id
    assert "access_token" not in event["data"]["object"]["identities"][0]


def test_linking_deletes_the_secondary_and_updates_the_primary(
    quick: RunningStage, receiver: Receiver
) -> None:
    """https://auth0.com/docs/customize/events/send-outbound-scim"""
    first, second = quick.login("github", "rosa"), quick.login("acme-bitbucket", "rosa")
    quick.do("send_to", events={"url": receiver.url, "bearer": "x"})
    quick.do("link", primary=first, secondary=second)
    receiver.wait_for(lambda got: len(got) == 2)
    events = {(e := json.loads(one.body))["type"]: e["data"]["object"] for one in receiver.received}
    assert events["user.deleted"]["user_id"] == second
    assert events["user.updated"]["user_id"] == first
    assert [one["connection"] for one in events["user.updated"]["identities"]] == [
        "github",
        "acme-bitbucket",
    ]
    with api(quick) as http:
        assert http.get("/users/bitbucket%7Crosa").status_code == 404
        assert len(http.get("/users/github%7Crosa").json()["identities"]) == 2
    assert quick.login("acme-bitbucket", "rosa") == first  # the account is the primary's now


def test_a_connection_event_carries_no_secret(quick: RunningStage, receiver: Receiver) -> None:
    quick.do("send_to", events={"url": receiver.url, "bearer": "x"})
    quick.do("patch_connection", name="acme-workspace", options={"client_secret": "s", "scope": []})
    receiver.wait_for(lambda got: len(got) == 1)
    event = json.loads(receiver.received[0].body)
    assert event["type"] == "connection.updated"
    assert event["data"]["object"]["options"] == {"scope": []}  # and the admin's tokens are gone


def test_an_event_is_tried_four_times(quick: RunningStage, receiver: Receiver) -> None:
    """1, 2 and 4 s apart (https://auth0.com/docs/customize/events/events-best-practices)."""
    receiver.statuses = [500, 502, 503, 202]
    quick.do("send_to", events={"url": receiver.url, "bearer": "x"})
    quick.login("github", "rosa")
    receiver.wait_for(lambda got: len(got) == 4)
    times = [one.at for one in receiver.received]
    pauses = [after - before for before, after in pairwise(times)]
    assert [pause >= least for pause, least in zip(pauses, (0.01, 0.02, 0.04), strict=True)] == [
        True
    ] * 3
    assert len({one.body for one in receiver.received}) == 1


def test_a_4xx_is_final_until_redelivery(quick: RunningStage, receiver: Receiver) -> None:
    receiver.statuses = [400]
    quick.do("send_to", events={"url": receiver.url, "bearer": "x"})
    quick.login("github", "rosa")
    receiver.wait_for(lambda got: len(got) == 1)
    with api(quick) as http:
        failed = _failed_deliveries(http)
        assert [one["event_type"] for one in failed] == ["user.created"]
        http.post(f"/event-streams/{failed[0]['event_stream_id']}/redeliver/{failed[0]['id']}")
    receiver.wait_for(lambda got: len(got) == 2)
    assert receiver.received[0].body == receiver.received[1].body


def _failed_deliveries(http: httpx.Client) -> list[Any]:
    stream = http.get("/event-streams").json()["eventStreams"][0]
    for _ in range(100):
        found = http.get(f"/event-streams/{stream['id']}/deliveries").json()["deliveries"]
        if found:
            return list(found)
    raise AssertionError("no failed delivery was listed")


def test_500_failures_in_a_row_disable_an_event_stream(
    quick: RunningStage, receiver: Receiver
) -> None:
    receiver.statuses = [401] * 500
    quick.do("send_to", events={"url": receiver.url, "bearer": "x"})
    quick.do("logins", connection="github", subjects=[f"user{n}" for n in range(500)])
    receiver.wait_for(lambda got: len(got) == 500, seconds=20)
    stream = quick.stage.event_streams[0]
    receiver.wait_for(lambda got: not stream.enabled)
    quick.login("github", "late")
    with api(quick) as http:
        assert http.get("/event-streams").json()["eventStreams"][0]["status"] == "disabled"
    assert len(receiver.received) == 500  # what happens meanwhile is not even kept


def test_the_actions_call_is_signed_and_comes_before_the_tokens(
    start: Start, receiver: Receiver
) -> None:
    """Post-login Actions run before the login completes, so the pull that follows is too early."""
    stage = start(visible_after_s=0.5)
    secret = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
    stage.do("send_to", actions={"url": receiver.url, "secret": secret})
    user_id = stage.login("google-oauth2", "rosa")
    receiver.wait_for(lambda got: len(got) == 1)
    got = receiver.received[0]
    body = Webhook(secret).verify(got.body, got.headers)
    assert body["user_id"] == user_id
    assert body["connection"]["name"] == "google-oauth2"
    with api(stage) as http:
        assert "access_token" not in http.get("/users/google-oauth2%7Crosa").json()["identities"][0]
        ends = time.monotonic() + 10
        while "access_token" not in http.get("/users/google-oauth2%7Crosa").text:
            assert time.monotonic() < ends, "the tokens never became visible"
