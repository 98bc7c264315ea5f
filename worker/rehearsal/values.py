"""Users, identities and connections as the tenant keeps them, and as the Management API shows them.

Shapes: auth0-python 6.8.0, `user_response_schema`, `user_identity_schema`, `connection_for_list`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .families import Issued
from .provider import Provider
from .records import Record, iso

ENTERPRISE = frozenset(
    {"ad", "adfs", "google-apps", "ip", "office365", "oidc", "okta", "pingfederate"}
    | {"samlp", "sharepoint", "waad"}
)
SECRET_OPTIONS = ("client_secret", "admin_access_token", "admin_refresh_token")


@dataclass(slots=True, kw_only=True)
class Identity:
    """One account of a user, as it stands in `identities[]`."""

    connection: str
    provider: str  # the strategy
    user_id: str
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    access_token_secret: str | None = field(default=None, repr=False)
    more: Record = field(default_factory=dict, repr=False)  # further tokens, deeper
    expires_in: int | None = None
    profile_data: Record | None = None
    searchable_at: float = 0.0  # the index shows a link late

    def as_json(self, *, tokens: bool) -> Record:
        body: Record = {
            "connection": self.connection,
            "provider": self.provider,
            "user_id": self.user_id,
            "isSocial": self.provider not in ENTERPRISE,
            "profileData": self.profile_data,
        }
        if tokens:
            body |= {
                "access_token": self.access_token,
                "refresh_token": self.refresh_token,
                "access_token_secret": self.access_token_secret,
                **self.more,
                "expires_in": self.expires_in,
            }
        return {name: value for name, value in body.items() if value is not None}


@dataclass(slots=True, kw_only=True)
class User:
    user_id: str
    email: str
    name: str
    created_at: float
    updated_at: float
    last_login: float | None = None
    logins_count: int = 0
    blocked: bool = False
    identities: list[Identity] = field(default_factory=list)

    def as_json(self, *, tokens: bool) -> Record:
        body: Record = {
            "user_id": self.user_id,
            "email": self.email,
            "email_verified": True,
            "name": self.name,
            "nickname": self.name.split()[0].lower(),
            "created_at": iso(self.created_at),
            "updated_at": iso(self.updated_at),
            "identities": [identity.as_json(tokens=tokens) for identity in self.identities],
        }
        if self.last_login is not None:
            body |= {
                "last_login": iso(self.last_login),
                "last_ip": "203.0.113.7",
                "logins_count": self.logins_count,
            }
        return body | ({"blocked": True} if self.blocked else {})


@dataclass(slots=True, kw_only=True)
class Connection:
    id: str
    name: str
    strategy: str
    provider: Provider
    options: Record = field(repr=False)
    top: Record = field(default_factory=dict)  # further top-level fields

    def as_json(self, *, options: bool) -> Record:
        body = {
            "id": self.id,
            "name": self.name,
            "strategy": self.strategy,
            "display_name": self.name,
            "realms": [self.name],
            "is_domain_connection": False,
            "show_as_button": True,
            "authentication": {"active": True},
            "connected_accounts": {"active": False},
            **self.top,
        }
        return body | ({"options": self.options} if options else {})

    def context(self) -> Record:
        return {"connection": {"id": self.id, "name": self.name, "strategy": self.strategy}}

    def log_fields(self) -> Record:
        """As a log record names it."""
        return {
            "connection": self.name,
            "connection_id": self.id,
            "strategy": self.strategy,
            "strategy_type": "enterprise" if self.strategy in ENTERPRISE else "social",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A login on its way: the provider has answered, the tenant has not written it yet."""

    user: User
    via: Connection
    subject: str
    issued: Issued
    second: Issued | None = None
    started: float
    new: bool


class NoSuchError(LookupError):
    """No user or connection of that name."""
