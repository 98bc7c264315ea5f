"""Every refusal as a problem document (RFC 9457): what is wrong, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from worker.domain.errors import NotFoundError, TamperError, TransientError, WorkerError
from worker.domain.held import Actor
from worker.domain.refusals import (
    AmbiguousError,
    AwayError,
    ForbiddenVerbError,
    GoneError,
    NeedsLoginError,
    TooWideError,
)

MEDIA_TYPE = "application/problem+json"

_ACT: Mapping[Actor | None, str] = {
    Actor.USER: "The user has to log in again through this connection.",
    Actor.OPERATOR: "An operator has to act: `evergrant grants explain` says how.",
    None: "It mends itself: ask again after Retry-After seconds.",
}
_TOO_WIDE = (
    "The provider ends everything this account allowed the client, the grants in `siblings` with "
    "it. Repeat with `?include_siblings=true` to give those up too."
)
_TOO_WIDE_HIDDEN = (
    "The provider ends everything this account allowed the client, and with it grants that this "
    "API key may not give up. An operator can: `evergrant grants revoke --include-siblings`."
)


class ProblemError(Exception):
    """A refusal on its way out. `code` is stable, `detail` says what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.headers = dict(headers or {})
        self.document = {
            "type": f"urn:evergrant:problem:{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
            **more,
        }

    def response(self) -> Response:
        return Response(
            msgspec.json.encode(self.document),
            status_code=self.status,
            headers={"Cache-Control": "no-store", **self.headers},
            media_type=MEDIA_TYPE,
        )


def problem_of(error: WorkerError) -> ProblemError:  # noqa: PLR0911  # a table, one line each
    """What an app is told. Whatever the house says of itself (host names, SQL) stays inside."""
    match error:
        case NotFoundError():
            return ProblemError(
                404,
                "not_found",
                "Nothing here for this key",
                "There is no such grant, or the key's scope does not cover it: the answer is the "
                "same. Check tenant, connection (its name) and user id (percent-encoded).",
            )
        case ForbiddenVerbError():
            return ProblemError(
                403, error.code, "The key lacks a verb", "Give the key the verb `renew`."
            )
        case AmbiguousError():
            return ProblemError(
                409,
                error.code,
                "The user has several accounts on this connection",
                "Say which one with `?identity=…`.",
                identities=list(error.identities),
            )
        case NeedsLoginError():
            return ProblemError(
                409,
                "needs_reauth",
                "No valid access token, and none can be had without somebody's help",
                _ACT[error.who],
                reason=error.reason,
                who=error.who,
                grant=str(error.grant),
            )
        case GoneError():
            return ProblemError(
                410,
                error.code,
                "Given up",
                "The grant was given up or its user deleted: it has ended here. What came of it at "
                "the provider is in its receipt. Only a new login makes a new one.",
                grant=str(error.grant),
            )
        case AwayError():
            return _for_now(
                error,
                "No valid access token at the moment",
                _ACT[error.who],
                reason=error.reason,
                who=error.who,
                grant=str(error.grant),
            )
        case TransientError():
            return _for_now(error, "Not available at the moment", _ACT[None])
        case TooWideError():
            return ProblemError(
                409,
                error.code,
                "Revoking this would end more than this grant",
                _TOO_WIDE_HIDDEN if error.hidden else _TOO_WIDE,
                siblings=[str(grant) for grant in error.siblings],
                siblings_of_others=error.hidden,
            )
        case TamperError():
            return ProblemError(
                500,
                error.code,
                "The stored token is not what was stored",
                "It is not served. An operator has to run `evergrant doctor`.",
            )
        case _:
            return ProblemError(
                500, error.code, "Evergrant cannot answer", "Its log says why; ask the operator."
            )


def _for_now(error: TransientError, title: str, detail: str, **more: object) -> ProblemError:
    seconds = math.ceil(error.retry_after.total_seconds()) if error.retry_after else 2
    return ProblemError(
        503,
        error.code,
        title,
        detail,
        headers={"Retry-After": str(max(1, seconds))},
        retry_after=max(1, seconds),
        **more,
    )


async def on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


async def on_worker_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WorkerError)
    return problem_of(error).response()


async def on_http_error(_request: Request, error: Any) -> Response:
    """No such path, no such method."""
    code = {404: "no_such_path", 405: "no_such_method"}.get(error.status_code, "http_error")
    return ProblemError(
        error.status_code,
        code,
        str(error.detail),
        "What there is stands in /openapi.json.",
        headers=error.headers,
    ).response()


async def on_bad_request(_request: Request, error: Any) -> Response:
    """A parameter is wrong. Its value is not repeated: it may be a token put in the wrong place."""
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return ProblemError(
        400, "bad_parameter", f"Parameter `{name}` is wrong", str(first["msg"]), parameter=name
    ).response()


async def on_crash(_request: Request, _error: Exception) -> Response:
    return ProblemError(
        500, "internal", "Evergrant failed", "Its log says why; ask the operator."
    ).response()
