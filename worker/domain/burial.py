"""Grants on their way out: which are meant, what is still held of them, what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from worker.domain.grant import Fingerprint, GrantId, GrantKey, GrantState

FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(hours=1)
COMPROMISED = "compromised"  # why: the tokens have leaked, and go with every grant that has them
GIVE_UP_AFTER = timedelta(days=7)  # then the keys go, and the receipt says "not revoked there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which grants of a tenant; every field given narrows it.

    `handed_since` and `handed_to` select by the audit: grants whose access tokens left since
    then, to the API key of that name. `also` names grants besides, whatever the rest says.
    """

    tenant: str
    grant: GrantId | None = None
    user_id: str | None = None
    connection: str | None = None
    handed_since: datetime | None = None
    handed_to: str | None = None
    also: tuple[GrantId, ...] = ()

    def __post_init__(self) -> None:
        narrow = (self.grant, self.user_id, self.connection, self.handed_since, self.handed_to)
        if all(part is None for part in narrow):
            raise ValueError("a selection names a grant, a user, a connection or a time")

    def and_also(self, grants: tuple[GrantId, ...]) -> Selection:
        return replace(self, also=(*self.also, *grants))


@dataclass(frozen=True, slots=True, kw_only=True)
class Concerned:
    """A grant that a selection means, as it stands."""

    id: GrantId
    key: GrantKey
    user_id: str | None
    provider: str
    renewable: bool  # and not waiting for a login: a renewal can replace its access token
    alias_of: GrantId | None
    expires_at: datetime | None  # of the access token; None: never, or not told


@dataclass(frozen=True, slots=True, kw_only=True)
class Sibling:
    """A living grant that ends with another one, because the provider ends the whole consent."""

    id: GrantId
    key: GrantKey
    user_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What has become of a grant that was given up, or whose access token was withdrawn."""

    id: GrantId
    connection: str
    provider: str
    state: GrantState
    replaceable: bool  # by a renewal of its own
    renewed_at: datetime | None
    last_error: str | None
    outcomes: Sequence[str]  # at the provider, oldest first, one for each pair and try
    by_hand: str  # where a person ends it, as the receipts say


# Of several outcomes of one grant the least good is the one to tell; "later" is no outcome yet.
_FROM_WORST = (
    ("gave_up", "refused", "unreadable", "not_offered", "partly", "spared", "shared", "revoked")
)  # fmt: skip


def told_outcome(fate: Fate) -> str:
    """One word for what a provider said to giving a grant up; "pending" while it may say more."""
    if fate.state is not GrantState.ERASED:
        return "pending"
    said = set(fate.outcomes)
    return next((outcome for outcome in _FROM_WORST if outcome in said), "nothing_held")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPair:
    """Tokens still held: the current pair (`candidate` None) or one kept beside it."""

    candidate: int | None
    generation: int
    access_token: bytes | None = field(repr=False)
    refresh_token: bytes | None = field(repr=False)
    access_expires_at: datetime | None
    shared: bool = False  # another grant held this very refresh token when it came
    latest: bool = False  # the one a renewal would have spent next


@dataclass(frozen=True, slots=True, kw_only=True)
class Heir:
    """A living grant that follows the one which ends, and gets its refresh token (C18)."""

    id: GrantId
    tenant: str
    generation: int  # what is sealed for it is bound to this one
    refresh_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bequest:
    """A refresh token, sealed for the heir."""

    heir: Heir
    rt_fp: Fingerprint
    refresh_token: bytes = field(repr=False)


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
    heir: Heir | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one pair upstream. Codes and sentences, never a token."""

    pair: SealedPair
    outcome: (
        str  # revoked, partly, refused, not_offered, spared, shared, unreadable, gave_up, later
    )
    detail: Mapping[str, object]

    @property
    def final(self) -> bool:
        return self.outcome != "later"


def pause_after(failures: int) -> timedelta:
    """Before the next try: 10 s, doubling, at most an hour."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(failures, 12)))
