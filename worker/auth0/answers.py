"""Users, identities and connections as Auth0 answers them, read without insisting on anything.

Fields come and go between plans, strategies and years; an id may be a number. What is missing is
None, what is strange is left out, and tokens become `Secret`s before anything else sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.domain.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Tokens that lie deeper in an identity: a provider's answer kept whole has more than one."""

    access_token: Secret | None
    refresh_token: Secret | None
    expires_in: object
    scope: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One account of a user. `connection` is a name, never a `con_…` id."""

    connection: str
    provider: str  # Auth0's strategy string
    user_id: str  # within the provider, without its prefix
    access_token: Secret | None
    refresh_token: Secret | None
    expires_in: object  # not in the published schema: seconds as a rule, or anything, or None
    scope: str | None
    access_token_secret: Secret | None = None  # OAuth 1.0a
    pairs: Mapping[str, Pair] = field(default_factory=dict)  # by the key they lie under

    @property
    def holds_tokens(self) -> bool:
        return bool(self.access_token or self.refresh_token or self.pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """As far as tokens are concerned; no profile."""

    user_id: str
    identities: tuple[Identity, ...]
    created_at: datetime | None
    last_login: datetime | None
    logins_count: int | None
    blocked: bool = False  # by an administrator; Auth0 leaves the field out where nobody has

    @property
    def login(self) -> str | None:
        """Changes exactly when somebody logs in as this user; None: not told."""
        if self.logins_count is None and self.last_login is None:
            return None
        return f"{self.user_id} {self.logins_count} {self.last_login}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connection; `options` hold secrets in clear and go no further than the puller."""

    id: str | None
    name: str
    strategy: str
    options: Mapping[str, Any] | None = field(repr=False)  # None: not shown to us
    login_active: bool | None  # `authentication.active`
    vault_active: bool  # `connected_accounts.active`: Token Vault keeps the tokens


def user_of(body: Mapping[str, Any]) -> User:
    return User(
        user_id=text(body.get("user_id")) or "",
        identities=tuple(
            identity
            for element in _list(body.get("identities"))
            if isinstance(element, Mapping) and (identity := _identity(element)) is not None
        ),
        created_at=moment(body.get("created_at")),
        last_login=moment(body.get("last_login")),
        logins_count=_whole(body.get("logins_count")),
        blocked=body.get("blocked") is True,
    )


def connection_of(body: Mapping[str, Any]) -> Connection | None:
    """None where the element has no name: nothing can be done with it."""
    if not (name := text(body.get("name"))):
        return None
    options = body.get("options")
    shown = options if isinstance(options, Mapping) and options else None
    # the older switch lies in `options`, the newer beside them
    old = _mapping(_mapping(options).get("federated_connections_access_tokens"))
    new = _mapping(body.get("connected_accounts"))
    active = _mapping(body.get("authentication")).get("active")
    return Connection(
        id=text(body.get("id")),
        name=name,
        strategy=text(body.get("strategy")) or "",
        options=shown,
        login_active=active if isinstance(active, bool) else None,
        vault_active=new.get("active") is True or old.get("active") is True,
    )


def secret(value: object) -> Secret | None:
    """No token holds a NUL, and no header could carry one."""
    return Secret(value) if isinstance(value, str) and value and "\x00" not in value else None


def text(value: object) -> str | None:
    """Ids come as strings or as integers."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value) or None


def moment(value: object) -> datetime | None:
    """ISO 8601 as Auth0 writes it; None of anything else."""
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value)
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def words(value: object) -> str | None:
    """A scope: one string, or a list of them."""
    if isinstance(value, list):
        return " ".join(item for item in value if isinstance(item, str)) or None
    return value if isinstance(value, str) and value else None


def _identity(body: Mapping[str, Any]) -> Identity | None:
    connection, user_id = text(body.get("connection")), text(body.get("user_id"))
    if not connection or not user_id:
        return None
    return Identity(
        connection=connection,
        provider=text(body.get("provider")) or "",
        user_id=user_id,
        access_token=secret(body.get("access_token")),
        refresh_token=secret(body.get("refresh_token")),
        access_token_secret=secret(body.get("access_token_secret")),
        pairs={
            name: pair
            for name, value in body.items()
            if isinstance(value, Mapping) and (pair := _pair(value)) is not None
        },
        expires_in=body.get("expires_in"),
        scope=words(body.get("scope")),
    )


def _pair(body: Mapping[str, Any]) -> Pair | None:
    pair = Pair(
        access_token=secret(body.get("access_token")),
        refresh_token=secret(body.get("refresh_token")),
        expires_in=body.get("expires_in"),
        scope=words(body.get("scope")),
    )
    return pair if pair.access_token or pair.refresh_token else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
