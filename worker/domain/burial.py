"""Grants on their way out: which are meant, what is still held of them, what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from worker.domain.grant import GrantId, GrantKey

FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(days=7)  # then the keys go, and the receipt says "not revoked there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which grants of a tenant; every field given narrows it.

    `handed_since` and `handed_to` select by the audit: grants whose access tokens left since
    then, to the API key of that name.
    """

    tenant: str
    grant: GrantId | None = None
    user_id: str | None = None
    connection: str | None = None
    handed_since: datetime | None = None
    handed_to: str | None = None

    def __post_init__(self) -> None:
        narrow = (self.grant, self.user_id, self.connection, self.handed_since, self.handed_to)
        if all(part is None for part in narrow):
            raise ValueError("a selection names a grant, a user, a connection or a time")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPair:
    """Tokens still held: the current pair (`candidate` None) or one kept beside it."""

    candidate: int | None
    generation: int
    access_token: bytes | None = field(repr=False)
    refresh_token: bytes | None = field(repr=False)
    access_expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Buried:
    """A tombstoned grant, leased to one revoker."""

    id: GrantId
    key: GrantKey
    user_id: str | None
    provider: str
    tombstoned_at: datetime
    failures: int
    shared: bool  # an alias: the tokens belong to another grant, which lives
    access_key: bytes | None = field(repr=False)
    refresh_key: bytes | None = field(repr=False)
    pairs: Sequence[SealedPair]
    arriving_until: datetime | None  # an exchange was under way; its answer may still bring tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one pair upstream. Codes and sentences, never a token."""

    pair: SealedPair
    outcome: str  # revoked, refused, not_offered, ended, shared, unreadable, gave_up, later
    detail: Mapping[str, object]

    @property
    def final(self) -> bool:
        return self.outcome != "later"


def pause_after(failures: int) -> timedelta:
    """Before the next try: 10 s, doubling, at most an hour."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(failures, 12)))
