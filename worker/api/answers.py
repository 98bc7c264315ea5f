"""The JSON of every answer: models for `/openapi.json`, and the same made from grants."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from worker.domain.grant import GrantState
from worker.domain.held import HeldGrant, who_must_act
from worker.handout import Explanation, Handed


class Problem(BaseModel):
    """RFC 9457. `code` is stable; `reason` and `who` say why and whose turn it is."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    reason: str | None = None
    who: str | None = Field(default=None, description="user or operator; absent: time mends it")
    grant: str | None = None
    retry_after: int | None = Field(default=None, description="seconds")


class TokenAnswer(BaseModel):
    """An access token and how long to use it."""

    access_token: str
    access_token_secret: str | None = Field(
        default=None, description="OAuth 1.0a only: requests are signed with both"
    )
    token_type: str
    expires_at: datetime | None = Field(description="null: the provider named no end")
    expires_in: int | None = Field(description="seconds, rounded down")
    use_until: datetime = Field(description="ask again from then on; never after expires_at")
    use_for: int = Field(description="seconds until use_until, rounded down")
    expiry: str = Field(
        description="at: expires_at; never: no end; untold: the provider was silent"
    )
    scope: str | None
    api_base: str | None = Field(
        default=None, description="where the API is for this account, if the provider has told"
    )
    connection: str
    strategy: str
    user_id: str | None
    identity_user_id: str
    generation: int = Field(description="send it as `stale` if the provider refuses the token")
    renewed_at: datetime | None


class GrantSummary(BaseModel):
    """One grant, without its tokens."""

    id: str
    connection: str
    strategy: str
    provider: str
    part: str
    user_id: str | None
    identity_user_id: str
    state: str
    reason: str | None
    withheld: str | None = Field(
        description="handed to nobody: user_blocked, or user_missing (Auth0 knows no such user)"
    )
    who: str | None
    renewable: bool
    scope: str | None
    generation: int
    expiry: str
    expires_at: datetime | None
    renewed_at: datetime | None
    due_at: datetime | None


class TokenList(BaseModel):
    tokens: list[GrantSummary]


class Moment(BaseModel):
    at: datetime
    actor: str
    verb: str
    detail: dict[str, Any]


class GrantExplanation(GrantSummary):
    """Where a grant stands, why, what happens next and when."""

    next_step: str
    next_at: datetime | None
    failures: int
    last_error: str | None
    alias_of: str | None
    connection_stopped: str | None
    connection_problems: list[str] = Field(
        description="codes: what an administrator has to mend at the Auth0 connection"
    )
    candidates: dict[str, int] = Field(description="refresh tokens kept beside, by why")
    timeline: list[Moment]


class RevocationAnswer(BaseModel):
    """What was begun. "Deleted here" is not "revoked there": the grant's timeline tells both."""

    grant: str
    state: str
    at_provider: str = Field(description="pending, or by_hand where the provider offers no way")
    effect: str | None = Field(description="what it ends there; null: told by the timeline only")
    by_hand: str = Field(description="where a person ends it without us")
    siblings: list[str] = Field(description="grants given up with it: the provider ends them too")


def token_answer(handed: Handed) -> dict[str, object]:
    held = handed.grant
    left = None if held.expires_at is None else held.expires_at - handed.at
    pair = handed.token_secret
    return {
        "access_token": handed.access_token.text(),
        **({"access_token_secret": pair.text()} if pair else {}),
        "token_type": held.token_type,
        "expires_at": held.expires_at,
        "expires_in": None if left is None else int(left.total_seconds()),
        "use_until": handed.use_until,
        "use_for": int((handed.use_until - handed.at).total_seconds()),
        "expiry": held.expiry,
        "scope": held.scope,
        **({"api_base": held.api_base} if held.api_base else {}),
        "connection": held.key.connection,
        "strategy": held.strategy,
        "user_id": held.user_id,
        "identity_user_id": held.key.identity_user_id,
        "generation": held.generation,
        "renewed_at": held.renewed_at,
    }


def summary(held: HeldGrant) -> dict[str, object]:
    active = held.state is GrantState.ACTIVE and held.withheld is None
    return {
        "id": str(held.id),
        "connection": held.key.connection,
        "strategy": held.strategy,
        "provider": held.provider,
        "part": held.key.part,
        "user_id": held.user_id,
        "identity_user_id": held.key.identity_user_id,
        "state": held.state,
        "reason": held.reason,
        "withheld": held.withheld,
        "who": None if active else who_must_act(held),
        "renewable": held.renewable,
        "scope": held.scope,
        "generation": held.generation,
        "expiry": held.expiry,
        "expires_at": held.expires_at,
        "renewed_at": held.renewed_at,
        "due_at": held.due_at,
    }


def explanation(told: Explanation) -> Mapping[str, object]:
    held = told.grant
    return summary(held) | {
        "who": told.who,
        "next_step": told.next_step,
        "next_at": told.next_at,
        "failures": held.failures,
        "last_error": held.last_error,
        "alias_of": None if held.alias_of is None else str(held.alias_of),
        "connection_stopped": told.connection_stopped,
        "connection_problems": list(told.connection_problems),
        "candidates": told.candidates,
        "timeline": [
            {"at": m.at, "actor": m.actor, "verb": m.verb, "detail": m.detail}
            for m in told.timeline
        ],
    }
