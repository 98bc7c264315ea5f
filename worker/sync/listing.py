"""Every user id of a tenant, although a search shows a thousand at most."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from worker.auth0 import ManagementApi
from worker.auth0.management import PAGE, ListedUser
from worker.domain.errors import PermanentError

_SHOWN = 1000  # hits of one query that can be paged through
_EVER = "1970-01-01T00:00:00.000Z"
EVERYBODY = f"created_at:[{_EVER} TO *]"


@dataclass(slots=True)
class Place:
    """How far a listing by time of creation has come."""

    since: str = _EVER  # `created_at` of the last user listed
    at_since: set[str] = field(default_factory=set)  # ids listed that were created right then


async def pages_of_users(api: ManagementApi, place: Place) -> AsyncIterator[Sequence[str]]:
    """Ids in pages, oldest user first; `place` is past a page when it is yielded.

    A query sorted by creation is followed for a thousand hits, then asked anew from the last
    one's time on. The search index lags behind by seconds: who signs up meanwhile is told of by
    his login. Raises: PermanentError where a thousand users were created in one millisecond.
    """
    while True:
        began_at, listed = place.since, 0
        for number in range(_SHOWN // PAGE):
            hits = await api.search(f"created_at:[{began_at} TO *]", page=number)
            listed += len(hits)
            fresh = [hit for hit in hits if hit.user_id not in place.at_since]
            _move(place, fresh)
            yield [hit.user_id for hit in fresh]
            if len(hits) < PAGE:
                return
        if place.since == began_at:
            raise PermanentError(
                f"{api.tenant}: {listed} users were created at {began_at}; have Auth0 export "
                "them (--export), or give a list of ids",
                code="too_many_at_once",
            )


def _move(place: Place, hits: Sequence[ListedUser]) -> None:
    for hit in hits:
        if hit.created_at != place.since:
            place.since, place.at_since = hit.created_at, set()
        place.at_since.add(hit.user_id)
