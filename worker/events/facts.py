"""What deciding about an event needs to know of its tenant, and how ids are let in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.domain.errors import PermanentError
from worker.domain.event import Event, Source, Trigger
from worker.domain.loose_json import UNREADABLE

_LONGEST_ID = 1024  # characters; Auth0's own ids stay under 300


class UnreadableError(PermanentError):
    """The record cannot be told from nonsense; it is kept raw, and someone may look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFacts:
    """One tenant, as far as its events are concerned."""

    name: str  # ours: [tenants.NAME]
    own_client_id: str | None = None  # events caused by this client are our own echo
    auth0_name: str | None = None  # `tenant_name`, `a0tenant`; None: not known, not checked
    # database connections whose login scripts return tokens; other database logins are ignored
    database_connections: frozenset[str] = field(default_factory=frozenset)

    def excludes(self, told: Any) -> bool:
        """Whether a record names another tenant, by a stream pointed at this one's door.

        Only a name can: what is no text says nothing, for a coming version may write it otherwise.
        """
        named = isinstance(told, str) and told != ""
        return self.auth0_name is not None and named and told != self.auth0_name


def auth0_name_of(domain: str) -> str | None:
    """The tenant name in a canonical domain: "acme" of acme.eu.auth0.com; None of any other."""
    return domain.split(".", 1)[0] if domain.endswith(".auth0.com") else None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one record came from; builds its events."""

    tenant: TenantFacts
    source: Source
    delivery_id: str

    def event(
        self,
        trigger: Trigger,
        *,
        date: Any = None,
        part: str = "",
        user_id: Any = None,
        connection: Any = None,
        connection_id: Any = None,
        strategy: Any = None,
        identity_user_id: Any = None,
        detail: dict[str, str] | None = None,
    ) -> Event:
        """`part` tells apart several events of one record. Raises: UnreadableError on bad ids."""
        return Event(
            tenant=self.tenant.name,
            trigger=trigger,
            source=self.source,
            delivery_id=f"{self.delivery_id}/{part}" if part else self.delivery_id,
            occurred_at=instant(date),
            user_id=an_id(user_id),
            connection=an_id(connection),
            connection_id=an_id(connection_id),
            strategy=an_id(strategy),
            identity_user_id=an_id(identity_user_id),
            detail=detail or {},
        )


def an_id(value: Any) -> str | None:
    """An id as text; None when absent or empty (Auth0 sends both, and integers too).

    Control characters (NUL, CR, LF, ESC) and lone surrogates are refused: no id has them, and a
    log, a header or a database would trip over them. So is U+FFFD: it stands for what could not
    be read, and another user's id may differ in just that.
    """
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > _LONGEST_ID or not _clean(value):
        raise UnreadableError("an id that is no id", code="bad_id")
    return value


def _clean(value: str) -> bool:
    return value.isprintable() and UNREADABLE not in value


def text_of(value: Any) -> str:
    """The value if it is text, else "": for comparing, where a strange one means "not that"."""
    return value if isinstance(value, str) else ""


def instant(value: Any) -> datetime | None:
    """An ISO 8601 time as told. It orders nothing (M1), so what cannot be read is left out."""
    if not isinstance(value, str):
        return None
    try:
        told = datetime.fromisoformat(value)
        return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
