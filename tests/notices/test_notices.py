"""Apps and operators are told once per episode, in time, and never a token."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine
from standardwebhooks import Webhook

from tests.clock import FakeClock
from tests.events.world import offload
from worker.domain.errors import ConfigurationError, TransientError
from worker.domain.grant import GrantId, GrantKey
from worker.domain.ports import Notice
from worker.domain.secret import Secret
from worker.monitoring import logs
from worker.notices import Dispatcher, ExchangeSink, Message, Sink, WebhookSink
from worker.store.notices import NoticeRepository

SECRET = b64encode(b"n" * 32).decode()
GRANT = GrantId(uuid4())


def notice(episode: str = "e1", kind: str = "grant_needs_login") -> Notice:
    key = GrantKey(tenant="acme", connection="google-oauth2", identity_user_id="1")
    return Notice(
        tenant="acme",
        kind=kind,
        episode=episode,
        grant=GRANT,
        key=key,
        user_id="google-oauth2|1",
        reason="invalid_grant",
    )


class Listener:
    """A sink that hears, or fails as told."""

    def __init__(self, name: str = "listener") -> None:
        self.name = name
        self.heard: list[Message] = []
        self.deaf = False

    def wants(self, message: Message) -> bool:
        return True

    async def send(self, message: Message) -> None:
        if self.deaf:
            raise TransientError("deaf", code="deaf")
        self.heard.append(message)


class Office:
    def __init__(self, engine: Engine) -> None:
        self.clock = FakeClock(datetime.now(UTC))  # the receivers' library compares with real time
        self.outbox = NoticeRepository(engine)

    def tell(self, *notices: Notice) -> None:
        self.outbox.tell(notices, now=self.clock.now())

    async def send(self, *sinks: Sink) -> dict[str, int]:
        one = Dispatcher(outbox=self.outbox, sinks=sinks, clock=self.clock, offload=offload)
        return await one.dispatch(budget_seconds=5)


@pytest.fixture
def office(engine: Engine) -> Office:
    return Office(engine)


async def test_an_episode_is_told_once(office: Office) -> None:
    listener = Listener()
    office.tell(notice(), notice())
    office.tell(notice())
    assert await office.send(listener) == {"sent": 1}
    assert await office.send(listener) == {}
    assert [m.id for m in listener.heard] == ["e1"]


async def test_a_notice_is_a_cloud_event_of_ids(office: Office) -> None:
    listener = Listener()
    office.tell(notice())
    await office.send(listener)
    event = json.loads(listener.heard[0].body)
    assert event["type"] == "evergrant.grant_needs_login"
    assert event["data"] == {
        "tenant": "acme",
        "grant": str(GRANT),
        "user_id": "google-oauth2|1",
        "connection": "google-oauth2",
        "identity_user_id": "1",
        "part": "user",
        "reason": "invalid_grant",
    }


async def test_a_sink_that_fails_is_told_again_and_the_others_are_not(office: Office) -> None:
    deaf, good = Listener("deaf"), Listener("good")
    deaf.deaf = True
    office.tell(notice())
    assert await office.send(deaf, good) == {"retry": 1}
    assert await office.send(deaf, good) == {}
    deaf.deaf = False
    office.clock.advance(10)
    assert await office.send(deaf, good) == {"sent": 1}
    assert (len(deaf.heard), len(good.heard)) == (1, 1)


async def test_after_three_days_nobody_is_told_any_more(office: Office) -> None:
    deaf = Listener()
    deaf.deaf = True
    office.tell(notice())
    outcomes = []
    for _ in range(80):
        outcomes += list(await office.send(deaf))
        office.clock.advance(2 * 3600)
    assert outcomes[-1] == "gave_up"
    assert office.outbox.oldest_age(now=office.clock.now()) is None
    assert office.outbox.purge(before=office.clock.now()) == 1


async def test_a_sender_that_dies_leaves_the_notice_to_another(office: Office) -> None:
    office.tell(notice())
    office.outbox.claim(now=office.clock.now(), lease_for=timedelta(seconds=90), limit=10)
    listener = Listener()
    assert await office.send(listener) == {}
    office.clock.advance(91)
    assert await office.send(listener) == {"sent": 1}


async def test_a_webhook_is_signed_so_that_its_receiver_can_tell(office: Office) -> None:
    received: list[httpx.Request] = []

    def receive(request: httpx.Request) -> httpx.Response:
        received.append(request)
        return httpx.Response(503 if len(received) == 1 else 204)

    http = httpx.AsyncClient(transport=httpx.MockTransport(receive))
    sink = WebhookSink("https://app.example/h", Secret(SECRET), http=http, clock=office.clock)
    office.tell(notice())
    assert await office.send(sink) == {"retry": 1}
    office.clock.advance(10)
    assert await office.send(sink) == {"sent": 1}
    first, second = received
    for request in received:
        Webhook(SECRET).verify(request.content, dict(request.headers))
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


async def test_the_address_of_a_webhook_is_told_to_nobody(
    office: Office, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chat programs put the secret into its path."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # put back afterwards
    logs.configure(json=True)
    http = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(404)))
    sink, other = (
        WebhookSink(
            f"https://u:pw1@hooks.example/T1/s3cr3t{number}?key=k3y",
            Secret(SECRET),
            http=http,
            clock=office.clock,
        )
        for number in (1, 2)
    )
    office.tell(notice())
    assert await office.send(sink, other) == {"retry": 1}
    office.clock.advance(10)
    (pending,) = office.outbox.claim(
        now=office.clock.now(), lease_for=timedelta(seconds=90), limit=10
    )
    told = capsys.readouterr().err + repr(pending) + sink.name
    assert "hooks.example" in told
    assert not [secret for secret in ("pw1", "s3cr3t", "k3y") if secret in told]
    assert sink.name != other.name  # the outbox remembers by it who has been told


async def test_a_receivers_answer_is_not_read(office: Office) -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            raise AssertionError("read")
            yield b""

    http = httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Endless()))
    )
    sink = WebhookSink("https://app.example/h", Secret(SECRET), http=http, clock=office.clock)
    office.tell(notice())
    assert await office.send(sink) == {"sent": 1}


async def test_a_webhook_hears_the_kinds_and_tenants_it_asked_for(office: Office) -> None:
    heard: list[str] = []

    def receive(request: httpx.Request) -> httpx.Response:
        heard.append(json.loads(request.content)["type"])
        return httpx.Response(200)

    http = httpx.AsyncClient(transport=httpx.MockTransport(receive))
    one, elsewhere = (
        WebhookSink(
            f"https://app.example/{tenant}",
            Secret(f"whsec_{SECRET}"),
            http=http,
            clock=office.clock,
            kinds=["grant_revoked"],
            tenants=[tenant],
        )
        for tenant in ("acme", "other")
    )
    office.tell(notice("1"), notice("2", "grant_revoked"))
    assert await office.send(one, elsewhere) == {"sent": 2}
    assert heard == ["evergrant.grant_revoked"]


def test_a_secret_that_cannot_sign_stops_the_start(office: Office) -> None:
    http = httpx.AsyncClient()
    with pytest.raises(ConfigurationError, match="must be base64"):
        WebhookSink("https://x.example", Secret("whsec_"), http=http, clock=office.clock)


async def test_the_exchange_is_told_with_tenant_and_kind_as_its_key(office: Office) -> None:
    published: list[str] = []
    sink = ExchangeSink(lambda key, body: published.append(key), offload)
    office.tell(notice())
    await office.send(sink)
    assert published == ["acme.grant_needs_login"]
