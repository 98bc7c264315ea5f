"""What happened at the tenant, as much of it as may be believed: ids, never data (I22)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Trigger(StrEnum):
    """What actions are bound to."""

    LOGIN = "login"
    USER_CHANGED = "user_changed"
    USER_DELETED = "user_deleted"
    CONNECTION_CHANGED = "connection_changed"
    SYNC = "sync"
    TENANT_WARNED = "tenant_warned"  # Auth0 names a limit or a deprecation that concerns us
    GRANT_RENEWED = "grant_renewed"
    GRANT_NEEDS_LOGIN = "grant_needs_login"
    GRANT_REVOKED = "grant_revoked"
    GRANT_ENDS_SOON = "grant_ends_soon"  # whatever we do: only a login begins a new one


class Source(StrEnum):
    """The door an event came through; with `delivery_id` it is the key of deduplication."""

    LOGS = "logs"
    EVENTS = "events"
    ACTIONS = "actions"
    QUEUE = "queue"
    POLL = "poll"
    CLI = "cli"
    OURSELVES = "ourselves"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing to look into. It can say "look at this user", never "this is his token"."""

    tenant: str
    trigger: Trigger
    source: Source
    delivery_id: str  # `log_id`, CloudEvent `id`, webhook id: unique per tenant and source
    occurred_at: datetime | None = None  # as told; orders nothing (M1)
    user_id: str | None = None
    connection: str | None = None  # name
    connection_id: str | None = None
    strategy: str | None = None
    identity_user_id: str | None = None
    detail: dict[str, str] = field(default_factory=dict)  # codes and ids; never a token or profile

    @property
    def subject(self) -> str:
        """Whom a look at it looks at; events of one tenant and subject share that look."""
        if self.user_id:
            return f"user:{self.user_id}"
        return f"connection:{self.connection_id or self.connection or self.trigger}"
