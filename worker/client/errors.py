"""Why there is no token, by what the caller can do about it.

TokenError
├── NeedsLoginError      the user logs in again, or an operator acts: see `who` and `reason`
├── RevokedError         the grant was given up; only a new login makes a new one
├── NotFoundError        no such grant, or the API key does not cover it
├── KeyRefusedError      the API key is missing, wrong, expired, or lacks a verb
└── NotAvailableError    not now: try again after `retry_after` seconds
"""

from __future__ import annotations

from typing import Any

import httpx


class TokenError(Exception):
    """`code` is stable; `detail` says what to do. Never holds a token."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str | None = None,
        who: str | None = None,
        grant: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.who = who
        self.grant = grant
        self.retry_after = retry_after


class NeedsLoginError(TokenError):
    """Somebody has to act: `who` is "user" or "operator"."""


class RevokedError(TokenError):
    """It does not come back."""


class NotFoundError(TokenError):
    """Not there, or not for this key: the answer is the same."""


class KeyRefusedError(TokenError):
    """The API key, not the grant, is the matter."""


class NotAvailableError(TokenError):
    """Time mends it."""


_BY_STATUS: dict[int, type[TokenError]] = {
    401: KeyRefusedError,
    403: KeyRefusedError,
    404: NotFoundError,
    409: NeedsLoginError,
    410: RevokedError,
}


def error_of(response: httpx.Response) -> TokenError:
    """The problem document of a refusal (RFC 9457) as an exception."""
    problem = _document(response)
    kind = _BY_STATUS.get(response.status_code, TokenError)
    if response.status_code >= 500 or response.status_code == 429:
        kind = NotAvailableError
    if problem.get("code") == "identity_needed":
        kind = TokenError  # the call is incomplete, the grant is well
    said = " ".join(str(problem[part]) for part in ("title", "detail") if problem.get(part))
    return kind(
        said or f"Evergrant answered {response.status_code}",
        code=str(problem.get("code", f"http_{response.status_code}")),
        reason=problem.get("reason"),
        who=problem.get("who"),
        grant=problem.get("grant"),
        retry_after=_seconds(response.headers.get("retry-after")),
    )


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = response.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdecimal() else None
