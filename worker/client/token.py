"""One access token as Evergrant handed it out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """`access_token` is blank in `repr`, so that it does not end up in a log."""

    access_token: str = field(repr=False)
    token_type: str
    expires_at: datetime | None  # None: the provider named no end
    scope: str | None
    connection: str
    strategy: str
    user_id: str | None
    identity_user_id: str
    generation: int
    use_until: datetime
    access_token_secret: str | None = field(default=None, repr=False)  # OAuth 1.0a
    api_base: str | None = None  # where the API is for this account, if the provider has told
    fresh_until: float = field(repr=False)  # on this process's monotonic clock

    @property
    def fresh(self) -> bool:
        """Whether it may be used without asking again."""
        return time.monotonic() < self.fresh_until

    @property
    def authorization(self) -> str:
        """The header's value. GitHub and others answer `bearer`; the scheme's name is Bearer."""
        scheme = "Bearer" if self.token_type.lower() == "bearer" else self.token_type
        return f"{scheme} {self.access_token}"


def token_of(response: httpx.Response, *, asked_at: float) -> Token:
    """Read the answer. `use_for` counts from the question, so no two clocks are compared."""
    answer: Mapping[str, Any] = response.json()
    expires_at = answer["expires_at"]
    return Token(
        access_token=answer["access_token"],
        access_token_secret=answer.get("access_token_secret"),
        api_base=answer.get("api_base"),
        token_type=answer["token_type"],
        expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
        scope=answer["scope"],
        connection=answer["connection"],
        strategy=answer["strategy"],
        user_id=answer["user_id"],
        identity_user_id=answer["identity_user_id"],
        generation=answer["generation"],
        use_until=datetime.fromisoformat(answer["use_until"]),
        fresh_until=asked_at + answer["use_for"],
    )
