"""Which of our errors an answer of Auth0 is. By status and `errorCode`; wording varies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from worker.auth0.budget import pause_asked
from worker.domain import loose_json
from worker.domain.errors import (
    ConfigurationError,
    NotFoundError,
    PermanentError,
    TransientError,
    WorkerError,
)

_SCOPES = "grant the machine-to-machine application the scopes that `evergrant doctor` names"
_ADVICE = {"insufficient_entitlement": "the tenant's plan does not include this"}
GONE = 410  # an offset that has expired, under whatever name
_TRANSIENT = frozenset({408, 409, 425})


def of_api(
    tenant: str, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> WorkerError:
    """An answer of the Management API other than 2xx.

    What was asked for is not named: a user id may hold an e-mail address.
    """
    code = (None if status == GONE else _word(body, "errorCode")) or f"http_{status}"
    where = f"{tenant}: Management API answered {status} ({code})"
    if status == 404:
        return NotFoundError(where, code=code)
    if status == 429:
        return TransientError(
            where, code="too_many_requests", retry_after=pause_asked(headers, now=now)
        )
    if status in _TRANSIENT or status >= 500:
        return TransientError(where, code=code, retry_after=_retry_after(headers))
    if status == 401:
        return ConfigurationError(
            f"{where}: a fresh token is refused; `domain` must be the canonical tenant domain, "
            "not a custom one",
            code="api_token_refused",
        )
    if status == 403:
        return ConfigurationError(f"{where}: {_ADVICE.get(code, _SCOPES)}", code=code)
    return PermanentError(where, code=code)


def of_token_endpoint(
    tenant: str, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> WorkerError:
    """An answer of `/oauth/token` other than a token; OAuth's form, not the API's."""
    code = _word(body, "error") or f"http_{status}"
    where = f"{tenant}: no Management API token ({status}, {code})"
    if status == 429:
        return TransientError(
            where, code="too_many_requests", retry_after=pause_asked(headers, now=now)
        )
    if status in _TRANSIENT or status >= 500 or status < 400:
        return TransientError(where, code=code, retry_after=_retry_after(headers))
    advice = "check client_id, client_secret (or private_key) and domain"
    if code in ("access_denied", "unauthorized_client"):
        advice = "authorize the application for the Auth0 Management API, client_credentials on"
    return ConfigurationError(f"{where}: {advice}", code=code)


def decoded(tenant: str, body: bytes) -> Any:
    """The JSON of an answer, in it what others named or nested without care.

    Raises: TransientError: a cut or foreign body may come whole.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            return msgspec.json.decode(loose_json.mended(body))
        except (ValueError, RecursionError):
            raise TransientError(
                f"{tenant}: an answer that is not JSON", code="unreadable_answer"
            ) from None


def insufficient_scope(status: int, body: bytes) -> bool:
    """The token may be older than a scope it needs: scopes are fixed when it is issued."""
    return status == 403 and _word(body, "errorCode") in (None, "insufficient_scope")


def _retry_after(headers: Mapping[str, str]) -> timedelta | None:
    value = headers.get("retry-after", "")
    return timedelta(seconds=min(int(value), 86_400)) if value.isdecimal() else None


def _word(body: bytes, key: str) -> str | None:
    """A short word out of an error body; None of anything else, for it goes into messages."""
    try:
        value = msgspec.json.decode(body)[key]
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
        KeyError,
        TypeError,
        IndexError,
    ):
        return None
    short = isinstance(value, str) and value.isascii() and value.replace("_", "").isalnum()
    return value[:64] if short else None
