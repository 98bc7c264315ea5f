"""What there is and why it is so: the answers to "which tokens?" and "what is wrong with this?"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from worker.domain.access import ApiKey, Verb
from worker.domain.attempt import USER_INACTIVE
from worker.domain.errors import NotFoundError
from worker.domain.exchange import to_reopen
from worker.domain.forward import Moment
from worker.domain.grant import ExpiryKind, GrantId, GrantPart, GrantState
from worker.domain.held import GONE, Actor, HeldGrant, Withheld, parked, unreadable, who_must_act
from worker.domain.ports import Clock, Offload
from worker.handout.ports import HeldGrants

TIMELINE = 50  # entries told of one grant


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One grant, told to the person who asks what is going on."""

    grant: HeldGrant
    next_step: str
    next_at: datetime | None
    who: Actor | None  # None: nobody has to
    connection_stopped: str | None
    connection_problems: Sequence[str]  # codes: what an admin has to mend at Auth0
    candidates: Mapping[str, int]
    timeline: Sequence[Moment]


class Explain:
    """Reads only, and never a token."""

    def __init__(self, *, grants: HeldGrants, clock: Clock, offload: Offload) -> None:
        self._grants = grants
        self._clock = clock
        self._offload = offload

    async def of_user(self, key: ApiKey, tenant: str, user_id: str) -> Sequence[HeldGrant]:
        """The user's grants that the key may see. Raises: NotFoundError when that is none."""
        found = await self._offload(self._grants.of_user, tenant, user_id)
        if seen := [held for held in found if may_see(key, held)]:
            return seen
        raise NotFoundError("no such user, or nothing of his for this key", code="not_found")

    async def grant(self, key: ApiKey, tenant: str, grant: GrantId) -> Explanation:
        """Raises: NotFoundError, not there or not for this key."""
        held = await self._offload(self._grants.by_id, grant)
        if held is None or held.key.tenant != tenant or not may_see(key, held):
            raise NotFoundError("no such grant, or not for this key", code="not_found")
        return await self._offload(self._told, held)

    def _told(self, held: HeldGrant) -> Explanation:
        stopped = self._grants.why_stopped(held.key.tenant, held.key.connection)
        step, who = what_next(held, stopped, self._clock.now())
        return Explanation(
            grant=held,
            next_step=step,
            next_at=held.due_at,
            who=who,
            connection_stopped=stopped,
            connection_problems=self._grants.problems(held.key.tenant, held.key.connection),
            candidates=self._grants.candidates(held.id),
            timeline=self._grants.timeline(held.id, TIMELINE),
        )


def may_see(key: ApiKey, held: HeldGrant) -> bool:
    """A grant shows to whoever may read it, or has the verb `status` there (I18)."""
    user = None if held.key.part is GrantPart.ADMIN else held.user_id
    asked = (Verb.STATUS, Verb.ADMIN) if user is None else (Verb.STATUS,)
    return any(key.allows(verb, held.key.tenant, held.key.connection, user) for verb in asked)


_WITHHELD = {
    Withheld.USER_MISSING: (
        "renewed, but handed to nobody: Auth0 knows no such user; he is deleted, or linked to "
        "another. Ended after the quiet time, if Auth0 can tell; `evergrant erasure waiting`"
    ),
    Withheld.USER_BLOCKED: "renewed, but handed to nobody while Auth0 has the user blocked",
}


def what_next(held: HeldGrant, stopped: str | None, now: datetime) -> tuple[str, Actor | None]:
    """The next thing that will happen to a grant, and who has to do it (None: the worker)."""
    if held.withheld is not None and held.state not in GONE:
        return _WITHHELD[held.withheld], Actor.OPERATOR
    if held.state is not GrantState.ACTIVE:
        return _after(held)
    if stopped:
        mend = to_reopen(held.key.connection, stopped)
        return f"nothing until an operator mends the connection: {stopped}; {mend}", Actor.OPERATOR
    if held.alias_of is not None:
        return f"follows grant {held.alias_of}, which holds the same refresh token", None
    return _scheduled(held, now) if held.renewable else _without_renewal(held)


def _scheduled(held: HeldGrant, now: datetime) -> tuple[str, Actor | None]:
    if parked(held):
        return (
            f"parked: an administrator at the provider has to act ({held.reason}); the same "
            "refresh token is tried once a day, and after `evergrant connections reopen`"
        ), Actor.OPERATOR
    if unreadable(held):
        return (
            f"nothing: what is stored of it is not what was written ({held.last_error}); a login "
            "brings another token, and an operator has to find out who changed it"
        ), Actor.OPERATOR
    if held.failures:
        return f"tried again after {held.failures} failures, the last: {held.last_error}", None
    if held.warned_at is not None and held.refresh_expires_at is not None:
        end = held.refresh_expires_at.isoformat(sep=" ", timespec="minutes")
        return f"renewed when due, until {end}: only a new login outlives that", Actor.USER
    if held.due_at is None:
        return "nothing to do: the token does not end", None
    return ("renewed now: it is due" if held.due_at <= now else "renewed when due"), None


def _after(held: HeldGrant) -> tuple[str, Actor | None]:
    why = held.reason or "no reason recorded"
    told: dict[GrantState, tuple[str, Actor | None]] = {
        GrantState.SUSPECT: ("asked once more before the refusal is believed", None),
        GrantState.NEEDS_REAUTH: (f"waits for the user to log in again: {why}", Actor.USER),
        GrantState.QUARANTINED: (f"waits for an operator: {why}", who_must_act(held)),
        GrantState.TOMBSTONED: (_ENDING, None),
        GrantState.REVOKING: (_ENDING, None),
    }
    return told.get(held.state, ("nothing: erased", None))


_ENDING = "the provider is asked to end it, if it can be, then the keys here are destroyed"


def _without_renewal(held: HeldGrant) -> tuple[str, Actor | None]:
    why = held.reason or "no refresh token"
    if held.expiry is ExpiryKind.NEVER:
        return "nothing to do: the token does not end", None
    who = Actor.USER if why == USER_INACTIVE else Actor.OPERATOR
    return f"served until it ends, then a login is needed: {why}", who
