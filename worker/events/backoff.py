"""How an inbox row stands after a pass over its actions. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.events.ports import Run
from worker.store.inbox import ClaimedEvent, Settlement

_FIRST = timedelta(seconds=2)
_LONGEST = timedelta(hours=2)


def settlement(
    claimed: ClaimedEvent, run: Run, *, now: datetime, spread: float, attempts: int
) -> Settlement:
    """Done, failed for good, or when to try again.

    Args:
        spread: in [0, 1), random; keeps rows that failed together apart.
        attempts: failed passes after which the row waits for a human.
    """
    if run.again is None:
        failed = run.failed is not None
        return Settlement(
            claimed=claimed,
            state="failed" if failed else "done",
            progress=run.progress,
            attempts=claimed.attempts + failed,
            next_at=None,
            error=run.failed,
        )
    tried = claimed.attempts + (not run.postponed)
    over = tried >= attempts
    wait = max(run.retry_after or timedelta(0), timedelta(0) if run.postponed else _wait(tried))
    return Settlement(
        claimed=claimed,
        state="failed" if over else "new",
        progress=run.progress,
        attempts=tried,
        next_at=None if over else now + wait * (1 + spread / 4),
        error=run.again,
    )


def _wait(tried: int) -> timedelta:
    """2 s, 4 s, 8 s, … 2 h."""
    return min(_FIRST * float(2 ** min(tried - 1, 20)), _LONGEST)
