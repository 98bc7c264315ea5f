"""A stage of its own for each test, and what a receiver of its webhooks sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from worker.rehearsal import RunningStage, StageSettings, rehearsal

# One for all: making a client costs more than asking. Plain http: nothing to verify.
HTTP = httpx.Client(trust_env=False, timeout=5, verify=False)
Start = Callable[..., RunningStage]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a stage with the given settings; it ends with the test."""
    with ExitStack() as stack:

        def begin(**settings: Any) -> RunningStage:
            return stack.enter_context(rehearsal(StageSettings(**settings)))

        yield begin


@pytest.fixture
def stage(start: Start) -> RunningStage:
    """A stage as it comes, with tokens that live for a minute."""
    return start(lifetimes={"*": 60})


def management_token(stage: RunningStage, **changes: Any) -> httpx.Response:
    """Ask the tenant for a Management API token."""
    settings = stage.stage.settings
    body = {
        "grant_type": "client_credentials",
        "client_id": settings.client_id,
        "client_secret": settings.client_secret,
        "audience": f"https://{settings.domain}/api/v2/",
    } | changes
    return HTTP.post(f"{stage.base_url}/oauth/token", data=body)


def api(stage: RunningStage) -> httpx.Client:
    """A client of the Management API with every scope the stage grants."""
    token = management_token(stage).json()["access_token"]
    return httpx.Client(
        base_url=f"{stage.base_url}/api/v2",
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
        verify=False,
    )


def refresh(stage: RunningStage, connection: str, token: str, **changes: Any) -> httpx.Response:
    """Spend a refresh token as the connection's client, by HTTP Basic."""
    options = stage.stage.tenant.connections[connection].options
    profile = stage.stage.tenant.connections[connection].provider.profile
    form = {profile.grant_param: profile.grant_name, profile.subject_param: token} | changes
    url = f"{stage.stage.provider_urls[profile.name]}/token"
    auth = (options["client_id"], options["client_secret"])
    headers = {"Accept": "application/json"}
    return HTTP.post(url, data=form, auth=auth, headers=headers)


def identity(stage: RunningStage, user_id: str, at: int = 0) -> Any:
    """An identity of a user, as the tenant keeps it."""
    return stage.stage.tenant.users[user_id].identities[at]
