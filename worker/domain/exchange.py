"""One conversation with a token endpoint: what is asked, and the truth about what came back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct

from worker.domain.grant import TokenSet
from worker.domain.learned import NOTHING, Learned
from worker.domain.secret import Secret


class Rotation(StrEnum):
    """What a refresh does to the refresh token it spends (INVARIANTS §2)."""

    N = "N"  # the refresh token does not change
    M = "M"  # it changes, the old one stays valid
    G = "G"  # the old one is accepted for a grace
    S = "S"  # the old one is refused, the family lives
    F = "F"  # the old one is refused and the family revoked; the class of every unknown provider


class WireRequest(Struct, frozen=True, kw_only=True):
    """A request ready to leave, whole: nobody adds to it but the transport's framing."""

    method: str
    url: str  # may hold a token (Meta exchanges by query string)
    host: str  # as pinned for the connection, lower case, with ":port" unless it is the default
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"WireRequest(method={self.method!r}, host={self.host!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent:
    """No byte of the request has left, surely."""

    reason: str  # "connect", "dns", "tls", "gate", "address", "pacing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertain:
    """Bytes left, no complete answer came: the provider may or may not have acted."""

    reason: str  # "timeout", "reset", "cut", "protocol"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A complete answer, at most 64 KiB of its body kept (`cut` tells whether more came)."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes = field(repr=False)
    cut: bool = False


Outcome = NotSent | Uncertain | Answered

Gate = Callable[[], bool]
"""Asked at the write itself, after connect and TLS: False means not one byte may leave."""


class Salvaged(Struct, frozen=True, kw_only=True):
    """Whatever in an answer looks like a token, before anything is judged."""

    access_token: Secret | None
    refresh_token: Secret | None


class Verdict(StrEnum):
    """The four verdicts of a refresh (facts: two are not enough)."""

    RENEWED = "renewed"
    TRANSIENT = "transient"
    GRANT_DEAD = "grant_dead"
    CONFIG_WRONG = "config_wrong"


class RevocationVerdict(StrEnum):
    """What a provider made of a request to revoke. "Deleted here" is never "revoked there"."""

    REVOKED = "revoked"  # done, or the token was dead already
    TRANSIENT = "transient"  # ask again
    REFUSED = "refused"  # it will not: tell the person where to do it by hand


class Reading(Struct, frozen=True, kw_only=True):
    """An answer, judged. `tokens` is set exactly when the verdict is RENEWED."""

    verdict: Verdict
    code: str  # the provider's own word, for instance "invalid_grant"; never a token
    tokens: TokenSet | None = None
    retry_after: timedelta | None = None  # asked for by the answer; at most 24 h
    heals: bool = False  # a grant-dead answer that an admin's act can undo with the same token
    if_repeated: bool = False  # a configuration is wrong only if the next answer says so too
    problem: str = ""  # what else was odd about the answer, for the audit
    account: str | None = None  # whose tokens came, where the answer says so


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """What an entry declares about time; None: not established."""

    access: timedelta | None
    refresh: timedelta | None
    refresh_idle: timedelta | None
    margin: timedelta | None  # else min(15 min, 20 % of life)
    not_before: timedelta | None  # after issue
    keepalive: timedelta | None  # renew at least this often, or the grant dies of silence
    refresh_fixed: bool = False  # the refresh token ends so long after the login, whatever we do
    first: timedelta | None = None  # of a login's token, which is exchanged once before renewals
    max_early: timedelta | None = None  # before expiry; what comes sooner is refused
    active_within: timedelta | None = None  # after a login; later nobody is served by renewing


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one provider host bears from us."""

    concurrency: int
    per_second: float
    gap: timedelta | None = None  # of one grant, after an exchange that brought nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionConfig:
    """One connection of a tenant, as far as renewing needs it."""

    tenant: str
    name: str
    id: str | None
    strategy: str
    client_id: str | None
    client_secret: Secret | None
    options: Mapping[str, object] = field(repr=False)  # the rest of `options`, no secrets
    headers: Mapping[str, Secret] = field(repr=False)  # `customHeaders`
    overrides: Mapping[str, object] = field(repr=False)  # operator's keys from evergrant.toml
    fetched_at: datetime
    approved_host: str | None  # token host pinned at first use (I13); None: not yet
    stopped: str | None  # why the whole connection is stopped; None: open
    enabled: bool = True
    learned: Learned = NOTHING  # from what its provider answered
    client_lost: bool = False  # remembered; Auth0 has it no more, and logins bring another's tokens

    def asks_as(self, other: ConnectionConfig) -> bool:
        """Whether it is the same client with the same secret, in all that a request is made of."""
        mine = (self.client_id, self.client_secret, self.options, self.headers)
        return mine == (other.client_id, other.client_secret, other.options, other.headers)


HOST_CHANGED = "its token host changed"  # how a stop begins that only an approval takes off


def to_reopen(connection: str, stopped: str) -> str:
    """What an operator does about a connection that was stopped for that reason."""
    if stopped.startswith(HOST_CHANGED):
        return f"look whether that is meant: `evergrant connections explain {connection}`"
    return (
        "check its client id and secret, at Auth0 and at the provider; if Auth0 had them wrong, "
        f"`evergrant sync connections`; then `evergrant connections reopen {connection}`"
    )
