"""Every user id of a tenant, although a search shows a thousand at most."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from worker.auth0 import ManagementApi
from worker.auth0.answers import moment
from worker.auth0.management import PAGE, ListedUser
from worker.domain.errors import PermanentError

_SHOWN = 1000  # hits of one query that can be paged through
_EVER = "1970-01-01T00:00:00.000Z"
EVERYBODY = f"created_at:[{_EVER} TO *]"


@dataclass(slots=True)
class Place:
    """How far a listing by time of creation, or of the last login, has come."""

    since: str = _EVER  # that time of the last user listed
    at_since: set[str] = field(default_factory=set)  # ids listed of right then


async def pages_of_users(api: ManagementApi, place: Place) -> AsyncIterator[Sequence[str]]:
    """Ids in pages, oldest user first; `place` is past a page when it is yielded.

    The search index lags behind by seconds: who signs up meanwhile is told of by his login.
    Raises: PermanentError where a thousand users were created in one millisecond.
    """
    async for page in _pages(api, place, "created_at"):
        yield [hit.user_id for hit in page]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastLogin:
    """Who logged in, when, and which accounts (strategy, connection) the index knows of him."""

    user_id: str
    at: datetime
    accounts: tuple[tuple[str, str], ...]


async def pages_of_logins(api: ManagementApi, place: Place) -> AsyncIterator[Sequence[LastLogin]]:
    """In pages, who logged in last coming last. Raises: as above."""
    async for page in _pages(api, place, "last_login", accounts=True):
        yield [
            LastLogin(user_id=hit.user_id, at=at, accounts=hit.accounts)
            for hit in page
            if (at := moment(hit.last_login)) is not None
        ]


async def _pages(
    api: ManagementApi,
    place: Place,
    by: Literal["created_at", "last_login"],
    *,
    accounts: bool = False,
) -> AsyncIterator[Sequence[ListedUser]]:
    """Each query begins at the time of the last hit: who is deleted, or logs in again, leaves the
    front of the list, and by number the pages would move up by as many, unread. Only users of one
    moment are paged through."""
    number = 0
    while number < _SHOWN // PAGE:
        began_at = place.since
        hits = await api.search(
            f"{by}:[{began_at} TO *]", page=number, sort=f"{by}:1", accounts=accounts
        )
        fresh = [hit for hit in hits if hit.user_id not in place.at_since]
        _move(place, [(hit.user_id, getattr(hit, by)) for hit in fresh])
        yield fresh
        if len(hits) < PAGE:
            return
        number = number + 1 if place.since == began_at else 0
    raise PermanentError(
        f"{api.tenant}: {_SHOWN} users have {by} {place.since}; have Auth0 export them"
        " (--export), or give a list of ids",
        code="too_many_at_once",
    )


def _move(place: Place, listed: Sequence[tuple[str, str]]) -> None:
    for user_id, at in listed:
        if at != place.since:
            place.since, place.at_since = at, set()
        place.at_since.add(user_id)
