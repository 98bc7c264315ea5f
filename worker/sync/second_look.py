"""When a pull is not enough: the merge asks for another look, or a login is not readable yet."""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.domain.errors import TransientError
from worker.domain.event import Event, Source
from worker.domain.merge import SECOND_LOOK, Kind, Why
from worker.store.merge_transaction import MergedGrant
from worker.store.merging import Merged

LOOK_AGAIN = timedelta(seconds=5)
_LOOKS = (timedelta(seconds=2), timedelta(seconds=5), timedelta(seconds=15))
_FAR_AHEAD = timedelta(hours=1)  # no clock of Auth0's is that much faster than ours


def look_again(merged: Merged, login: Event | None, now: datetime) -> None:
    """Raises: TransientError, with when to look. `login`: what the pull was for, if it was one."""
    for grant in merged.grants:
        if grant.decision.kind is Kind.LOOK_AGAIN:
            raise TransientError(
                f"{grant.key.tenant}: {grant.decision.why}",
                code=str(grant.decision.why),
                retry_after=LOOK_AGAIN,
            )
        if grant.decision.why is Why.UNEXPLAINED:
            raise TransientError(
                f"{grant.key.tenant}: a refresh token changed and nobody logged in",
                code="unexplained",
                retry_after=SECOND_LOOK,
            )
    if login is not None and (wait := _not_visible_yet(merged, login, now)):
        raise TransientError(
            f"{login.tenant}: that login's tokens are not readable yet",
            code="login_not_visible",
            retry_after=wait,
        )


def _not_visible_yet(merged: Merged, login: Event, now: datetime) -> timedelta | None:
    """When to look again for the tokens of `login`; None: they are in, or we give up.

    Actions run before the login's tokens can be read; log events come after. A login that
    brought nothing new (or nothing at all) is believed after the last look, and one that is
    told of the far future at once: it would never come to its last look.
    """
    if login.occurred_at is None:
        return None
    age = now - login.occurred_at
    if age < -_FAR_AHEAD:
        return None
    wait = next((look for look in _LOOKS if age < _elapsed(look)), None)
    mine = [grant for grant in merged.grants if _of(login, grant)]
    if wait is None or any(_is_in(grant, login) for grant in mine):
        return None
    silent = all(grant.decision.why is Why.NO_TOKENS for grant in mine)
    if silent and login.source is not Source.ACTIONS:
        return None  # databases, SAML: most logins bring no tokens, and never will
    return wait


def _of(login: Event, grant: MergedGrant) -> bool:
    identity = login.identity_user_id
    return grant.key.connection == login.connection and identity in (
        None,
        grant.key.identity_user_id,
    )


def _is_in(grant: MergedGrant, login: Event) -> bool:
    """The copy was news, or a pull before this one has brought the login's tokens."""
    if grant.decision.why not in (Why.STALE, Why.NO_TOKENS):
        return True
    began, told = grant.logged_in_at, login.occurred_at
    return began is not None and told is not None and began >= told - timedelta(seconds=60)


def _elapsed(look: timedelta) -> timedelta:
    """The age of a login at which that look is due: the looks add up."""
    return sum(_LOOKS[: _LOOKS.index(look) + 1], timedelta(0))
