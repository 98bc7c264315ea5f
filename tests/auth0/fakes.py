"""A tenant that answers as told, and tells what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

import httpx

from tests.clock import FakeClock
from worker.auth0 import Budget, Credentials, ManagementApi, plan_named
from worker.domain.ports import ApiToken
from worker.domain.secret import Secret

ALL_SCOPES = "read:users read:user_idp_tokens read:connections read:connections_options"
DOMAIN = "acme.eu.auth0.com"


async def in_place(call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """`Offload` without threads."""
    return call(*args, **kwargs)


@dataclass
class SharedTenants:
    """Meets `Tenants` in memory: a budget without bounds, unless told to say "wait"."""

    held: ApiToken | None = None
    waits: list[float] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    blocked: datetime | None = None
    log_id: str | None = None

    def token(self, tenant: str) -> ApiToken | None:
        return self.held

    def put_token(self, tenant: str, token: ApiToken) -> None:
        self.held = token

    def drop_token(self, tenant: str) -> None:
        self.held = None

    def take(self, tenant: str, bucket: str, rate: float, burst: float, now: datetime,
             *, n: int = 1, reserve: float = 0,
             own: tuple[str, float] | None = None) -> float:  # fmt: skip
        if self.waits:
            return self.waits.pop(0)
        self.taken.append({"bucket": bucket, "rate": rate, "n": n, "reserve": reserve})
        return 0.0

    def block(self, tenant: str, until: datetime) -> None:
        self.blocked = until

    def checkpoint(self, tenant: str) -> str | None:
        return self.log_id

    def put_checkpoint(self, tenant: str, log_id: str, *, after: str | None) -> bool:
        if self.log_id != after:
            return False
        self.log_id = log_id
        return True


Answer = tuple[int, Any] | tuple[int, Any, Mapping[str, str]] | Exception


class FakeTenant:
    """Auth0 behind an httpx transport: a queue of answers per path, the last one repeated."""

    def __init__(self, scope: str = ALL_SCOPES) -> None:
        self.scope = scope
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[httpx.Request] = []
        self.tokens = 0
        self.token_answer: Answer | None = None

    def on(self, path: str, *answers: Answer) -> None:
        self.answers[path] = list(answers)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    @property
    def paths(self) -> list[str]:
        return [request.url.raw_path.decode().removeprefix("/api/v2") for request in self.requests]

    @property
    def token_form(self) -> dict[str, str]:
        asked = next(r for r in reversed(self.requests) if r.url.path == "/oauth/token")
        return {name: value[0] for name, value in parse_qs(asked.content.decode()).items()}

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path == "/oauth/token":
            return self._token(request)
        path = request.url.raw_path.decode().removeprefix("/api/v2").partition("?")[0]
        queue = self.answers.get(path, [(404, {"statusCode": 404, "errorCode": "inexistent"})])
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        return self._respond(answer, request)

    def _token(self, request: httpx.Request) -> httpx.Response:
        if self.token_answer is not None:
            return self._respond(self.token_answer, request)
        self.tokens += 1
        body = {"access_token": f"api-{self.tokens}", "expires_in": 86400, "scope": self.scope}
        return httpx.Response(200, json=body)

    def _respond(self, answer: Answer, request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        status, body, *rest = answer
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, content=content, headers=rest[0] if rest else {})


def management(
    tenant: FakeTenant,
    shared: SharedTenants | None = None,
    *,
    clock: FakeClock | None = None,
    plan: str = "enterprise",
    **credentials: Any,
) -> ManagementApi:
    clock, shared = clock or FakeClock(), shared or SharedTenants()
    if not credentials:
        credentials = {"client_secret": Secret("app-secret")}
    return ManagementApi(
        "acme",
        Credentials(domain=DOMAIN, client_id="app", **credentials),
        tenants=shared,
        budget=Budget("acme", plan_named(plan), shared, clock=clock, offload=in_place),
        http=httpx.AsyncClient(transport=tenant.transport()),
        clock=clock,
        offload=in_place,
    )
