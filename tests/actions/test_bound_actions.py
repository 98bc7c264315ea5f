"""Operators' own actions: bound by name, tried before use, and told of grants."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from tests.events.world import World, offload
from worker.actions import Action, bind, built_in
from worker.domain.errors import ConfigurationError
from worker.domain.event import Trigger
from worker.domain.ports import Notice
from worker.domain.secret import Secret
from worker.notices import ActionSink, Dispatcher
from worker.store.notices import NoticeRepository

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def world(sqlite_engine: Engine, tmp_path: Path) -> World:
    return World(sqlite_engine, tmp_path)


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "chat", raising=False)  # another test's may be there
    yield
    sys.modules.pop("chat", None)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """A chat that hears what is posted to it."""
    heard: list[httpx.Request] = []

    def hear(request: httpx.Request) -> httpx.Response:
        heard.append(request)
        return httpx.Response(200)

    original = httpx.AsyncClient

    def client(**more: Any) -> httpx.AsyncClient:
        return original(transport=httpx.MockTransport(hear), **more)

    monkeypatch.setattr(httpx, "AsyncClient", client)
    return heard


def the_example() -> Action:
    url = Secret("https://chat.example/hook/x")
    return bind("chat:post", trigger="grant_needs_login", secrets={"CHAT_URL": url})


@pytest.mark.usefixtures("examples")
async def test_the_example_of_the_docs_posts_once_when_a_grant_needs_a_login(
    world: World, chat: list[httpx.Request]
) -> None:
    """From the outbox, where the renewal put it, through the inbox, to the chat."""
    world.bind(the_example())
    outbox = NoticeRepository(world.engine)
    notice = Notice(
        tenant="acme",
        kind="grant_needs_login",
        episode="needs_login:1:2",
        user_id="google-oauth2|1",
        reason="invalid_grant",
    )
    outbox.tell([notice, notice], now=world.clock.now())
    sink = ActionSink(world.intake.accept, lambda e: bool(world.registry.bound(e)), offload)
    send = Dispatcher(outbox=outbox, sinks=[sink], clock=world.clock, offload=offload)
    assert await send.dispatch(budget_seconds=5) == {"sent": 1}
    assert await world.work() == {"done": 1}
    [posted] = chat
    assert str(posted.url) == "https://chat.example/hook/x"
    assert "google-oauth2|1 has to log in again" in json.loads(posted.content)["text"]
    assert "(invalid_grant)" in json.loads(posted.content)["text"]


@pytest.mark.parametrize(
    ("run", "trigger", "says"),
    [
        ("json:nothing", "login", "cannot be imported"),
        ("no_such_module_at_all:run", "login", "cannot be imported"),
        ("json", "login", "cannot be imported"),
        ("json:JSONDecodeError.mro.x", "login", "cannot be imported"),
        ("json:__name__", "login", "is no function"),
        ("json:dumps", "loggin", "no trigger 'loggin'; there are login"),
    ],
)
def test_a_binding_that_cannot_work_stops_the_start(run: str, trigger: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        bind(run, trigger=trigger)


def test_two_actions_of_one_name_are_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match="two of login are named"):
        world.bind(bind("json.dumps", trigger="login"), bind("json.dumps", trigger="login"))


def test_actions_run_in_the_order_of_their_positions(world: World) -> None:
    world.bind(
        bind("json:dumps", trigger="login", position=5, name="before"),
        bind("json:loads", trigger="login", name="behind"),
    )
    logins = [a.name for a in world.registry.actions if a.trigger is Trigger.LOGIN]
    assert logins == ["before", "pull_user", "behind"]


def test_every_trigger_of_the_tenant_has_a_built_in_action() -> None:
    ours = {trigger for trigger in Trigger if trigger.name.startswith("GRANT_")}
    assert {action.trigger for action in built_in()} == set(Trigger) - ours


def test_an_actions_secrets_show_nowhere() -> None:
    action = Action(
        name="x", trigger=Trigger.LOGIN, run=print, secrets={"A": Secret("in-the-clear")}
    )
    assert "in-the-clear" not in repr(action)
