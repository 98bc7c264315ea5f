"""The application: what can be asked under `/v1`, and the routes of the other doors beside it."""

# No postponed annotations here: FastAPI reads those of the nested endpoints as values.
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute

from worker import __version__
from worker.api import problems
from worker.api.answers import (
    GrantExplanation,
    Problem,
    RevocationAnswer,
    TokenAnswer,
    TokenList,
    explanation,
    summary,
    token_answer,
)
from worker.api.direct import Direct
from worker.api.guard import Guard
from worker.api.keys import KeyBook
from worker.api.openapi import with_other_doors
from worker.api.subjects import Subjects
from worker.domain.access import ApiKey
from worker.domain.errors import TransientError, WorkerError
from worker.domain.grant import GrantId, GrantPart
from worker.domain.held import Ask
from worker.handout import Explain, Handed, Handout
from worker.revocation import Requests


class Lifespan(Protocol):
    def __call__(self, app: Any) -> AbstractAsyncContextManager[None]: ...


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt wish is told, not ignored


class AdminQuery(_Strict):
    min_ttl: int | None = Field(
        default=None, ge=0, le=86_400, description="seconds the token must live; default 60"
    )
    stale: int | None = Field(
        default=None, ge=0, lt=2**63, description="generation that the provider refused"
    )


class TokenQuery(AdminQuery):
    identity: str | None = Field(
        default=None, min_length=1, max_length=1024, description="one of several accounts"
    )
    part: Literal["user", "bot"] = Field(
        default="user", description="bot: the app's own pair that came with the login (Slack)"
    )


class RevokeQuery(_Strict):
    identity: str | None = Field(default=None, min_length=1, max_length=1024)
    part: Literal["user", "bot"] = "user"
    include_siblings: bool = Field(
        default=False, description="give up, too, what the provider ends together with it"
    )


Tenant = Annotated[str, Path(description="the tenant's name in evergrant.toml")]
User = Annotated[str, Path(description="Auth0's user id, percent-encoded: auth0%7C123")]
Connection = Annotated[str, Path(description="the connection's name")]

_PROBLEM: dict[str, Any] = {"content": {problems.MEDIA_TYPE: {}}, "model": Problem}


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "a parameter or the path is wrong",
        401: "no API key, or one that is not accepted",
        403: "the key lacks a verb",
        404: "no such grant, or not for this key",
        409: "somebody has to act: see `who`",
        410: "revoked",
        503: "not at the moment: see Retry-After",
    }
    return {code: {**_PROBLEM, "description": words[code]} for code in codes}


def build_app(
    *,
    handout: Handout,
    explain: Explain,
    requests: Requests,
    keys: KeyBook,
    subjects: Subjects | None = None,
    routes: Sequence[BaseRoute] = (),
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """The ASGI application.

    Args:
        requests: takes revocations; they are carried out by a worker, which holds the keys.
        subjects: checks users' own tokens, for keys with the verb `own`; None: nothing is trusted.
        routes: of the other doors (webhooks, health, metrics), mounted beside `/v1`.
    """
    app = FastAPI(
        title="Evergrant",
        version=__version__,
        description="Fresh access tokens of third parties, for the apps entitled to them.",
        docs_url=None,  # the pages would load scripts from somebody else's host
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    asker = _asker(keys, subjects or Subjects({}, fetch=_no_keys))
    app.include_router(_v1(handout, explain, requests, asker))
    app.router.routes.extend(routes)
    _answer_in_problems(app)

    async def answer(key: ApiKey, ask: Ask) -> dict[str, object]:
        return token_answer(await handout.token(key, ask))

    app.add_middleware(Direct, asker=asker, answer=answer)
    app.add_middleware(Guard)  # the outermost
    with_other_doors(app, routes)
    return app


Asker = Callable[..., Awaitable[ApiKey]]


def _asker(keys: KeyBook, subjects: Subjects) -> Asker:
    async def asker(request: Request, tenant: Tenant) -> ApiKey:
        key = await keys.holder(request.headers.getlist("authorization"))
        return await subjects.narrowed(key, request, tenant)

    return asker


async def _no_keys(tenant: str) -> Mapping[str, Any]:
    raise TransientError(f"no key set is known for {tenant}", code="no_key_set")


def _v1(handout: Handout, explain: Explain, requests: Requests, asker: Asker) -> APIRouter:
    key_holder = Annotated[ApiKey, Depends(asker)]
    v1 = APIRouter(prefix="/v1/{tenant:segment}", tags=["tokens"])

    @v1.get(
        "/users/{user_id:segment}/tokens",
        response_model=TokenList,
        responses=_refusals(400, 401, 404, 503),
    )
    async def list_tokens(key: key_holder, tenant: Tenant, user_id: User) -> Response:
        """What there is of one user, without token values."""
        seen = await explain.of_user(key, tenant, user_id)
        return _json({"tokens": [summary(held) for held in seen]})

    @v1.get(
        "/users/{user_id:segment}/tokens/{connection:segment}",
        response_model=TokenAnswer,
        responses=_refusals(400, 401, 403, 404, 409, 410, 503),
    )
    async def read_token(
        key: key_holder,
        tenant: Tenant,
        user_id: User,
        connection: Connection,
        query: Annotated[TokenQuery, Query()],
    ) -> Response:
        """A fresh access token of one user at one connection."""
        ask = replace(
            _ask(query, tenant, connection, user_id, query.identity), part=GrantPart(query.part)
        )
        return _json(token_answer(await handout.token(key, ask)))

    @v1.get(
        "/connections/{connection:segment}/token",
        response_model=TokenAnswer,
        responses=_refusals(400, 401, 403, 404, 409, 410, 503),
    )
    async def read_admin_token(
        key: key_holder,
        tenant: Tenant,
        connection: Connection,
        query: Annotated[AdminQuery, Query()],
    ) -> Response:
        """The administrator's token of an enterprise connection; needs the verb `admin`."""
        handed: Handed = await handout.token(key, _ask(query, tenant, connection, None, None))
        return _json(token_answer(handed))

    @v1.post(
        "/users/{user_id:segment}/tokens/{connection:segment}/revoke",
        status_code=202,
        response_model=RevocationAnswer,
        responses=_refusals(400, 401, 404, 409, 410, 503),
    )
    async def revoke(
        key: key_holder,
        tenant: Tenant,
        user_id: User,
        connection: Connection,
        query: Annotated[RevokeQuery, Query()],
    ) -> Response:
        """Give a grant up: nothing is served from now on, and the provider is asked to end it."""
        ask = Ask(
            tenant=tenant,
            connection=connection,
            user_id=user_id,
            identity=query.identity,
            part=GrantPart(query.part),
        )
        begun = await requests.revoke(key, ask, include_siblings=query.include_siblings)
        return _json(
            {
                "grant": str(begun.grant),
                "state": begun.state,
                "at_provider": "by_hand" if begun.effect == "" else "pending",
                "effect": begun.effect,
                "by_hand": begun.by_hand,
                "siblings": list(map(str, begun.siblings)),
            },
            status=202,
        )

    @v1.get(
        "/grants/{grant_id:segment}",
        response_model=GrantExplanation,
        responses=_refusals(400, 401, 404, 503),
        tags=["grants"],
    )
    async def explain_grant(key: key_holder, tenant: Tenant, grant_id: UUID) -> Response:
        """State, why, next and why then, timeline."""
        return _json(explanation(await explain.grant(key, tenant, GrantId(grant_id))))

    return v1


def _ask(
    query: AdminQuery, tenant: str, connection: str, user_id: str | None, identity: str | None
) -> Ask:
    return Ask(
        tenant=tenant,
        connection=connection,
        user_id=user_id,
        identity=identity,
        min_ttl=None if query.min_ttl is None else timedelta(seconds=query.min_ttl),
        stale=query.stale,
    )


def _json(answer: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status_code=status, media_type="application/json")


def _answer_in_problems(app: FastAPI) -> None:
    app.add_exception_handler(problems.ProblemError, problems.on_problem)
    app.add_exception_handler(WorkerError, problems.on_worker_error)
    app.add_exception_handler(HTTPException, problems.on_http_error)
    app.add_exception_handler(RequestValidationError, problems.on_bad_request)
    app.add_exception_handler(Exception, problems.on_crash)
