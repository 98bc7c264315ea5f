"""What a provider remembers of a consent: grants, the families of tokens in them, what is spent."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from .ledger import Counts


class RefusedError(Exception):
    """The provider says no; `situation` names the entry of the profile's `errors`."""

    def __init__(self, situation: str) -> None:
        super().__init__(situation)
        self.situation = situation


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What an answer of the token endpoint is made of."""

    grant: Grant
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    lifetime: float  # seconds
    refresh_lifetime: float | None  # seconds; None: it does not age
    issued_at: float
    scope: str


@dataclass(slots=True)
class Spent:
    """A single-use refresh token after its first use, remembered as long as its grace lasts."""

    at: float
    successor: int
    times: int = 1


@dataclass(slots=True, kw_only=True)
class Family:
    """The chain of tokens grown from one login."""

    id: int
    grant: Grant
    started_at: float
    used_at: float
    newest: int = 0  # serial of the youngest refresh token
    newest_access: int = 0
    access_until_ms: int = 0  # end of the youngest access token
    rotated_at: float = 0.0
    renewable: bool = True  # False: its refresh tokens were revoked, its access tokens live on
    recent: list[float] = field(default_factory=list)  # refreshes, where their pace is limited
    live: set[int] = field(default_factory=lambda: {0})
    spent: OrderedDict[int, Spent] = field(default_factory=OrderedDict)
    access_floor: int = 0  # access tokens below this serial are dead
    floors: list[tuple[float, int]] = field(default_factory=list)  # floors that rise later
    dead_access: dict[int, int] = field(default_factory=dict)  # revoked one by one: serial → expiry
    in_flight: dict[int, int] = field(default_factory=dict)
    ended: str | None = None  # why: "reuse", "user", "us", "limit"


@dataclass(slots=True, kw_only=True)
class Grant:
    """One account's consent to one client, and every login under it."""

    subject: str
    client_id: str
    scope: str
    families: OrderedDict[int, Family] = field(default_factory=OrderedDict)  # that live
    ended: deque[int] = field(default_factory=deque)  # the last few that do not
    counts: Counts = field(default_factory=Counts)
    consented: bool = False
