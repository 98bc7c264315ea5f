"""What the use cases need of the outside, as protocols; adapters meet them in `bootstrap`.

Store ports are synchronous (SQLAlchemy Core); whoever runs on the event loop passes through
`Offload`. Every port says what it guarantees, because a contract suite runs against the fake and
the adapter alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ParamSpec, Protocol, TypeVar

from worker.domain.event import Event
from worker.domain.exchange import (
    Answered,
    ConnectionConfig,
    Gate,
    Lifetimes,
    Limits,
    Outcome,
    Reading,
    RevocationVerdict,
    Rotation,
    Salvaged,
    WireRequest,
)
from worker.domain.grant import Fingerprint, GrantId, GrantKey
from worker.domain.secret import Secret

P = ParamSpec("P")
T = TypeVar("T")


class Clock(Protocol):
    """Wall time for what is written, monotonic time for what is decided in this process."""

    def now(self) -> datetime:
        """UTC, aware."""

    def monotonic(self) -> float:
        """Seconds; never steps."""

    async def sleep(self, seconds: float) -> None: ...


class Offload(Protocol):
    """Runs a blocking call off the event loop; a simulation runs it in place."""

    def __call__(
        self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]: ...


class DataKeys(Protocol):
    """One grant's two data keys, unwrapped: they seal and open as the `Vault` that gave them would,
    whatever becomes of its keyring meanwhile. Held in memory, and only while they are needed.
    """

    def seal(self, secret: Secret, *, generation: int, kind: str) -> bytes: ...

    def open(self, sealed: bytes, *, generation: int, kind: str) -> Secret: ...


class Vault(Protocol):
    """Seals and opens; every ciphertext is bound to tenant, grant, generation, kind, key (I16).

    `kind` is "at", "rt" or another short word of the caller's. A process that was given no key
    for a kind raises `ConfigurationError` on use (I17). A ciphertext that does not open raises
    `TamperError` and says which grant, never what. A tenant may have a keyring of its own: what was
    sealed for one tenant opens with no other's. Where its keyring, or a key of it, is not to be had
    now, `KeyringError` is raised.
    """

    def closed(self) -> Collection[str]:
        """Tenants whose keyring does not open now: nothing of theirs is to be begun."""

    def new_keys(self, tenant: str, grant: GrantId) -> tuple[bytes, bytes]:
        """Fresh data keys for one grant, wrapped: (access key, refresh key)."""

    def seal(
        self, secret: Secret, *, tenant: str, grant: GrantId, generation: int, kind: str, key: bytes
    ) -> bytes:
        """`key` is the wrapped data key of that kind."""

    def open(
        self, sealed: bytes, *, tenant: str, grant: GrantId, generation: int, kind: str, key: bytes
    ) -> Secret: ...

    def data_keys(
        self, *, tenant: str, grant: GrantId, access_key: bytes, refresh_key: bytes
    ) -> DataKeys:
        """For what must be sealed later without fail: a successor that is asked for now."""

    def seal_config(self, secret: Secret, *, tenant: str, scope: str) -> bytes:
        """For what belongs to no grant (client secrets, our Management API token)."""

    def open_config(self, sealed: bytes, *, tenant: str, scope: str) -> Secret: ...

    def fingerprint(self, token: Secret) -> Fingerprint:
        """Keyed, so that a thief of the database cannot test guesses. One key for all tenants: a
        refresh token is spent once, whoever holds it (I1)."""


class Provider(Protocol):
    """A catalogue entry, its overrides applied, for one connection."""

    @property
    def name(self) -> str:
        """The entry: "github-app". Task name and metrics label."""

    @property
    def rotation(self) -> Rotation: ...

    @property
    def grace_seconds(self) -> float: ...

    @property
    def always_rotates(self) -> bool:
        """Every refresh is known to bring a new refresh token; False also where it may."""

    @property
    def may_repeat(self) -> bool:
        """Whether refreshes are known to bring the same refresh token for a while, and then
        another."""

    @property
    def lifetimes(self) -> Lifetimes: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def spends(self) -> str:
        """ "rt" (a refresh token), "at" (the access token is exchanged), "" (nothing to renew)."""

    @property
    def not_renewable(self) -> str | None:
        """Why nothing can be renewed here, as a sentence for the operator; None: it can."""

    @property
    def without_refresh_token(self) -> str:
        """Why a login may have brought no refresh token, and the setting that mends it; "" where
        none is needed."""

    def request(
        self,
        connection: ConnectionConfig,
        *,
        subject: Secret,
        scope: str | None,
        now: datetime,
        first: bool = False,
    ) -> WireRequest:
        """The refresh request; `first`: the exchange that a login's token needs before.

        Raises: ConfigurationError naming the missing option.
        """

    def salvage(self, answer: Answered) -> Salvaged:
        """Never raises: pull out whatever may be a token, before judging (protocol step 6)."""

    def read(self, answer: Answered, *, asked_at: datetime) -> Reading:
        """Judge the answer. Never raises on what a provider may send."""

    def read_imported(
        self,
        *,
        access_token: Secret,
        refresh_token: Secret | None,
        expires_in: object,
        issued_at: datetime | None,
        now: datetime,
    ) -> ImportedExpiry:
        """What Auth0's copy says about expiry: kind, instant; no issue time: due."""

    @property
    def user_pair_at(self) -> str:
        """The key of Auth0's identity under which the person's own pair may lie; then the pair
        at its top is a bot's. "": there is never more than one."""

    @property
    def introspects(self) -> bool:
        """Whether `introspection` may have a question to ask."""

    def introspection(
        self, connection: ConnectionConfig, *, access_token: Secret, now: datetime
    ) -> WireRequest | None:
        """The question when an access token ends, for answers that do not tell; None: nobody to
        ask. Worth asking once after a renewal that is UNTOLD, and never worth waiting for.
        Raises: ConfigurationError."""

    def read_introspection(self, answer: Answered, *, now: datetime) -> datetime | None:
        """The end that was told, after `now`; None: none. Never raises."""

    @property
    def revocation_effect(self) -> str:
        """What a revocation ends: "token", "refresh_token", "pair", "grant" (all tokens of this
        consent), "app" (the whole consent of the user to the client), "" (nothing to ask)."""

    @property
    def revocation_by_hand(self) -> str:
        """Where a person ends it without us, as a sentence; "" when not established."""

    def revocation(
        self,
        connection: ConnectionConfig,
        *,
        access_token: Secret | None,
        refresh_token: Secret | None,
        now: datetime,
    ) -> WireRequest | None:
        """The request that ends the consent upstream; None: the provider offers none, or the
        token that it wants is not held. Raises: ConfigurationError naming the missing option."""

    def read_revocation(self, answer: Answered) -> RevocationVerdict:
        """Judge the answer to a revocation. Never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedExpiry:
    kind: str  # ExpiryKind value
    expires_at: datetime | None
    first: bool = False  # a login's token, to be exchanged once before it can be renewed


class Catalogue(Protocol):
    """All entries, the operator's merged in."""

    def names(self) -> Sequence[str]: ...

    def resolve(
        self,
        connection: ConnectionConfig,
        *,
        has_refresh_token: bool,
        access_token_prefix: str = "",
        expires_told: bool = False,
    ) -> Provider:
        """The entry for one grant: by strategy, then variant, then token-URL host; else class F."""

    def entry(self, name: str, connection: ConnectionConfig) -> Provider:
        """A named entry with that connection's overrides."""


class TokenEndpoint(Protocol):
    """Sends once. Resolves and checks the address, connects, asks `gate` at the write."""

    async def exchange(
        self, request: WireRequest, *, gate: Gate, read_timeout: float
    ) -> Outcome: ...


class Hints(Protocol):
    """ "Look": the queue carries nothing else, and losing it costs a tick (I2, I21)."""

    def renew(self, provider: str) -> None:
        """There is due work for this entry. Never raises; never blocks longer than 2 s."""

    def events(self) -> None:
        """There are inbox rows."""


class Connections(Protocol):
    """Connections as the store remembers them, secrets sealed."""

    def get(self, tenant: str, name: str) -> ConnectionConfig | None: ...

    def stop(
        self, tenant: str, name: str, *, asked: ConnectionConfig, reason: str, now: datetime
    ) -> bool:
        """Take the connection out of renewal until somebody mends it; its grants stay (I9).

        Compared and stopped in one step: what is known of it is still what was `asked` with, or
        the answer says nothing of today. True: it was open until now.
        """

    def reopen(self, tenant: str, name: str) -> None: ...

    def approve_host(self, tenant: str, name: str, host: str) -> str | None:
        """Pin `host` where none is pinned yet (I13), in one step. Returns the one that is pinned
        now, whoever pinned it; None: there is no such connection."""


class Pull(Protocol):
    """Re-read one user's copy at Auth0 and merge it (M1 to M9), under the pull fence."""

    async def user(self, tenant: str, user_id: str, *, login: Event | None = None) -> None:
        """`login`: the event that told of one; says which identity's tokens it must have brought.

        Raises: TransientError (also while that login's tokens are not readable yet; `retry_after`
        says when to look again), NotFoundError (gone or linked away), ConfigurationError.
        """

    async def connection(self, tenant: str, name: str) -> None:
        """By name or by `con_…` id. Raises: as above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """A Management API token and what it was granted."""

    token: Secret
    expires_at: datetime
    scope: str


class Tenants(Protocol):
    """What all processes share about one Auth0 tenant: its token, its request budget, its brake."""

    def token(self, tenant: str) -> ApiToken | None:
        """The shared token, expired or not; None: nobody has fetched one."""

    def put_token(self, tenant: str, token: ApiToken) -> None: ...

    def drop_token(self, tenant: str) -> None: ...

    def take(
        self,
        tenant: str,
        bucket: str,
        rate: float,
        burst: float,
        now: datetime,
        *,
        n: int = 1,
        reserve: float = 0,
        own: tuple[str, float] | None = None,
    ) -> float:
        """Take `n` requests from a shared token bucket; 0.0 if taken, else seconds to wait.

        `own`: (whose, requests per second that are theirs whatever the others take).
        """

    def block(self, tenant: str, until: datetime) -> None:
        """Nobody asks before `until`."""

    def checkpoint(self, tenant: str) -> str | None: ...

    def put_checkpoint(self, tenant: str, log_id: str, *, after: str | None) -> bool:
        """Move it on from `after`; False: somebody else has moved it meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """What happened, to what, by whom: ids and codes, never a token."""

    at: datetime
    actor: str  # "worker:<node>", "key:<name>", "cli:<login>"
    verb: str  # "renewed", "token_read", "needs_reauth", …
    tenant: str
    grant: GrantId | None = None
    detail: Mapping[str, object] | None = None


NOTICE_KINDS = frozenset(
    {"grant_renewed", "grant_needs_login", "grant_revoked", "grant_ends_soon", "grant_recovered"}
    | {"grant_needs_admin", "grant_other_account", "grant_lacks_scope", "same_refresh_token"}
    | {"grant_unreadable"}
    | {"connection_stopped", "connection_problem", "consent_lost", "verdicts_held"}
    | {"provider_changed", "keyring_closed", "auth0_stream_stopped"}
    | {"user_missing", "user_blocked"}
)
"""Ours; an operator's own action may make up others (`api.notify`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Told once per episode to apps and operators; carries ids, never a token."""

    tenant: str
    kind: str  # "grant_needs_login", "grant_renewed", "grant_revoked", "connection_stopped", …
    episode: str  # unique: a second notice with the same one is not stored
    grant: GrantId | None = None
    key: GrantKey | None = None
    user_id: str | None = None
    reason: str = ""
