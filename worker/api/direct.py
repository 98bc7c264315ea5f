"""The question that apps ask all day, answered without the framework.

Reading one user's token costs three times the CPU through FastAPI's dependencies (measured), which
find out anew for each request what is known of this one. Whatever is not exactly it goes the long
way, where parameters are checked: a query, another method, another path. Both ways end in the same
`answer`, so that neither can grant what the other refuses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from worker.api import problems
from worker.api.problems import ProblemError
from worker.domain.access import ApiKey
from worker.domain.errors import WorkerError
from worker.domain.held import Ask

Answer = Callable[[ApiKey, Ask], Awaitable[dict[str, object]]]
Asker = Callable[[Request, str], Awaitable[ApiKey]]


class Direct:
    """Inside `Guard`, which has checked the path; outside FastAPI."""

    def __init__(self, app: ASGIApp, *, asker: Asker, answer: Answer) -> None:
        self._app = app
        self._asker = asker
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask = _plain(scope)
        if ask is None:
            await self._app(scope, receive, send)
            return
        try:
            key = await self._asker(Request(scope), ask.tenant)
            body = msgspec.json.encode(await self._answer(key, ask))
        except (ProblemError, WorkerError) as error:
            problem = error if isinstance(error, ProblemError) else problems.problem_of(error)
            await problem.response()(scope, receive, send)
            return
        headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"application/json"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _plain(scope: Scope) -> Ask | None:
    """GET /v1/{tenant}/users/{user_id}/tokens/{connection} without a query, or nothing."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
        return None
    match scope["path"].split("/"):
        case ["", "v1", tenant, "users", user_id, "tokens", connection]:
            told = [unquote_to_bytes(part).decode() for part in (tenant, user_id, connection)]
            return Ask(tenant=told[0], user_id=told[1], connection=told[2])
    return None
