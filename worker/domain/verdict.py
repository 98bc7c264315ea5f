"""What an attempt that brought no tokens means: when to try again, and when to call a grant dead.

A grant is called dead slowly (I8): a mass of refusals is far more often an incident at the
provider, a changed client or our own mistake than a thousand users who withdrew.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.domain.attempt import Fate
from worker.domain.grant import Claim, GrantState

CONFIRM_AFTER = timedelta(seconds=60)
LONGEST_WAIT = timedelta(hours=24)  # of a Retry-After
BRAKE_WINDOW = timedelta(minutes=10)
BRAKE_LEAST = 20  # refused grants of one connection, or a hundredth of it if that is more

# Seconds after the n-th exchange without result. Sums: the sixth is at 35 min, the seventh past
# the hour, so a grant costs its provider at most six an hour (I12).
_BACKOFF = (15.0, 60.0, 240.0, 600.0, 1200.0, 3600.0)
_SHORTEST_SCALE = 1 / 30  # lives of seconds back off in half seconds, not in no time


def backoff(failures: int, *, life: timedelta | None, jitter: float) -> timedelta:
    """How long to wait after so many exchanges in a row that brought nothing.

    Args:
        failures: > 0.
        life: of the access token; below an hour the whole scale shrinks with it, because what
            lives ten seconds is dead after a wait of fifteen.
        jitter: in [0, 1); adds up to a quarter.
    """
    step = _BACKOFF[min(failures, len(_BACKOFF)) - 1]
    scale = 1.0 if life is None else min(1.0, life / timedelta(hours=1))
    return timedelta(seconds=step * max(scale, _SHORTEST_SCALE) * (1 + jitter / 4))


def at_least(wait: timedelta, gap: timedelta | None, *, life: timedelta | None) -> timedelta:
    """A provider's wish for a gap between two exchanges of one grant is kept as far as the life
    of its tokens allows: a tenth of it is what a retry may cost."""
    if gap is None:
        return wait
    return max(wait, gap if life is None else min(gap, life / 10))


def wait_for(asked: timedelta | None, otherwise: timedelta) -> timedelta:
    """Retry-After is obeyed, up to a day; it never shortens our own wait."""
    return otherwise if asked is None else max(otherwise, min(asked, LONGEST_WAIT))


def needs_reread(claim: Claim) -> bool:
    """Refused once, and Auth0's copy has not been re-read since: look there before asking again."""
    since = claim.suspect_since
    return since is not None and (claim.pulled_at is None or claim.pulled_at < since)


def is_final(claim: Claim, *, now: datetime, confirm_after: timedelta) -> bool:
    """Whether one more refusal, now, is the last word about the grant."""
    since = claim.suspect_since
    confirmed = since is not None and now - since >= confirm_after
    return claim.state is GrantState.SUSPECT and confirmed and not needs_reread(claim)


def after_refusal(*, final: bool, unresolved: bool, candidate_waits: bool, braked: bool) -> Fate:
    """What a refusal does to its grant.

    Args:
        final: as `is_final` said when the answer came.
        unresolved: an earlier attempt may yet bring the successor of the refused token.
        candidate_waits: another refresh token of the grant has not been tried.
        braked: a mass of the connection's grants was refused lately.
    """
    if candidate_waits:
        return Fate.NEXT_CANDIDATE
    if not final or unresolved:
        return Fate.SUSPECT
    return Fate.HELD if braked else Fate.NEEDS_REAUTH


def brakes(*, suspects: int, grants: int) -> bool:
    """Whether so many refused within `BRAKE_WINDOW`, of so many grants, stop all verdicts."""
    return suspects > max(BRAKE_LEAST, grants / 100)
