"""Auth0's own SDK, which we did not write, takes the rehearsal tenant for Auth0."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from auth0.management import ManagementClient, token_provider
from auth0.management.errors import (
    BadRequestError,
    ForbiddenError,
    NotFoundError,
    TooManyRequestsError,
    UnauthorizedError,
)
from auth0.management.types import CreateExportUsersFields

from tests.rehearsal.conftest import Start, management_token
from worker.rehearsal import RunningStage


class Redirected(httpx.HTTPTransport):
    """The SDK knows only https and a domain: what it sends goes to the stage instead."""

    def __init__(self, stage: RunningStage) -> None:
        super().__init__(verify=False)
        self._base = httpx.URL(stage.base_url)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        here = self._base
        request.url = request.url.copy_with(scheme=here.scheme, host=here.host, port=here.port)
        return super().handle_request(request)


Connect = Callable[..., Any]


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A ManagementClient of a stage; it fetches its token by itself unless given one."""

    def connect(stage: RunningStage, token: str | None = None) -> ManagementClient:
        def client() -> httpx.Client:
            return httpx.Client(transport=Redirected(stage), trust_env=False)

        monkeypatch.setattr(token_provider, "httpx", SimpleNamespace(Client=client))
        settings = stage.stage.settings
        return ManagementClient(
            domain=settings.domain,
            token=token,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            httpx_client=client(),
        )

    return connect


def test_it_reads_a_user_with_the_tokens_of_the_provider(stage: RunningStage, sdk: Connect) -> None:
    user_id = stage.login("acme-bitbucket", "{6f1d2c3b-0000}")
    user = sdk(stage).users.get(user_id)
    identity = user.identities[0]
    assert user.user_id == user_id == "bitbucket|{6f1d2c3b-0000}"
    assert (identity.connection, identity.provider) == ("acme-bitbucket", "bitbucket")
    assert identity.is_social is True
    assert identity.access_token.startswith("at-")
    assert identity.refresh_token.startswith("rt-")
    assert identity.model_extra["expires_in"] == 60
    assert user.created_at.tzinfo is not None
    assert user.logins_count == 1


def test_it_gets_one_token_for_many_calls(stage: RunningStage, sdk: Connect) -> None:
    client = sdk(stage)
    for name in ("rosa", "ingo"):
        client.users.get(stage.login("github", name))
    assert stage.ledger()["management_tokens"] == 1


def test_it_walks_the_pages_of_connections(stage: RunningStage, sdk: Connect) -> None:
    found = list(sdk(stage).connections.list(take=4))
    assert sorted(one.name for one in found) == sorted(stage.about()["connections"])
    workspace = next(one for one in found if one.name == "acme-workspace")
    assert workspace.options["admin_refresh_token"].startswith("1//")
    assert stage.ledger()["management_requests"]["connections"] == 3


def test_it_walks_the_pages_of_users_and_logs(stage: RunningStage, sdk: Connect) -> None:
    stage.do("logins", connection="github", subjects=[f"user{n}" for n in range(25)])
    client = sdk(stage)
    users = list(client.users.list(per_page=10))
    kinds = {entry.type for entry in client.logs.list(per_page=20)}
    assert len({one.user_id for one in users}) == 25
    assert {"s", "ss"} <= kinds


def test_it_finds_a_connection_by_name_and_by_id(stage: RunningStage, sdk: Connect) -> None:
    client = sdk(stage)
    (found,) = client.connections.list(name="acme-entra")
    again = client.connections.get(found.id)
    assert again.strategy == "waad"
    assert again.options["identity_api"] == "microsoft-identity-platform-v2.0"


def test_it_reads_failed_deliveries(stage: RunningStage, sdk: Connect) -> None:
    stage.do("send_to", events={"url": "http://127.0.0.1:9/", "bearer": "x", "pace": 0.001})
    stage.login("github", "rosa")
    client = sdk(stage)
    (stream,) = client.event_streams.list()
    found: list[Any] = []
    while not found:
        found = list(client.event_streams.deliveries.list(stream.id))
    assert (found[0].status, found[0].event_type) == ("failed", "user.created")
    assert len(found[0].attempts) == 4


def test_it_raises_its_own_errors(start: Start, sdk: Connect) -> None:
    stage = start(scopes="read:users", plan="free")
    client = sdk(stage)
    once = {"max_retries": 0}
    with pytest.raises(NotFoundError) as missing:
        client.users.get("google-oauth2|nobody", request_options=once)
    with pytest.raises(ForbiddenError) as forbidden:
        client.connections.list(request_options=once)
    with pytest.raises(TooManyRequestsError) as limited:
        client.users.get("google-oauth2|nobody", request_options=once)
    assert missing.value.body["errorCode"] == "inexistent_user"
    assert forbidden.value.body["errorCode"] == "insufficient_scope"
    assert (limited.value.headers or {})["x-ratelimit-remaining"] == "0"


def test_it_waits_for_the_bucket_and_succeeds(start: Start, sdk: Connect) -> None:
    """Its retry reads x-ratelimit-reset, as ours must."""
    stage = start(plan="free")
    client = sdk(stage)
    user_id = stage.login("github", "rosa")
    for _ in range(3):
        assert client.users.get(user_id).user_id == user_id
    assert stage.ledger()["management_refused"] >= 1


def test_a_token_of_another_tenant_is_refused(start: Start, sdk: Connect) -> None:
    stage, other = start(), start(domain="other.auth0.test")
    token = management_token(other).json()["access_token"]
    with pytest.raises(UnauthorizedError):
        sdk(stage, token).users.get("x")


def test_paging_ends_at_a_thousand(stage: RunningStage, sdk: Connect) -> None:
    with pytest.raises(BadRequestError) as refused:
        sdk(stage).users.list(page=10, per_page=100)
    assert refused.value.body["errorCode"] == "invalid_paging"


def test_it_exports_users_by_a_job(stage: RunningStage, sdk: Connect) -> None:
    ids = stage.do("logins", connection="github", subjects=["rosa", "emil"])
    github = stage.stage.tenant.connections["github"].id
    stage.login("acme-tracker", "ida")
    client = sdk(stage)
    job = client.jobs.users_exports.create(
        connection_id=github, format="json", fields=[CreateExportUsersFields(name="user_id")]
    )
    assert (job.type, job.status) == ("users_export", "pending")
    while (job := client.jobs.get(job.id)).location is None:
        assert job.percentage_done is not None
    assert job.status == "completed"
    with httpx.Client(transport=Redirected(stage), trust_env=False) as http:
        lines = gzip.decompress(http.get(job.location).content).splitlines()
        refused = http.get(job.location, headers={"authorization": "Bearer x"})
    assert [json.loads(line)["user_id"] for line in lines] == ids
    assert refused.status_code == 400
    with pytest.raises(NotFoundError):
        client.jobs.get("job_of_nobody")


def test_it_searches_and_counts(stage: RunningStage, sdk: Connect) -> None:
    stage.do("logins", connection="github", subjects=["rosa", "emil"])
    stage.login("acme-tracker", "ida")
    found = sdk(stage).users.list(
        q='identities.connection:"github"', fields="user_id", include_totals=True, per_page=1
    )
    assert [one.user_id for one in found] == ["github|rosa", "github|emil"]
    assert (found.response.total, found.response.limit) == (2, 1)
    assert found.items is not None
    assert found.items[0].identities is None


def test_it_meets_auth0s_refusals_of_paging_too_large_or_wrong(
    stage: RunningStage, sdk: Connect
) -> None:
    client, once = sdk(stage), {"max_retries": 0}
    for wrong in ({"per_page": 101}, {"page": -1}):
        with pytest.raises(BadRequestError) as refused:
            client.users.list(**wrong, request_options=once)
        assert refused.value.body["errorCode"] == "invalid_query_string"
    with pytest.raises(BadRequestError):
        client.connections.list(take=101, request_options=once)


def test_it_sees_how_the_log_streams_stand(stage: RunningStage, sdk: Connect) -> None:
    stage.do("send_to", logs={"url": "http://127.0.0.1:9/logs", "authorization": "x"})
    (stream,) = sdk(stage).log_streams.list()
    assert (stream.type, stream.status) == ("http", "active")
    stage.do("suspend_logs", suspended=True)
    (stream,) = sdk(stage).log_streams.list()
    assert stream.status == "suspended"
