"""A takeover for which nothing speaks but time lets everybody else have his turn first.

A store that was away comes back for all at once: for who holds the successor and could not write
it, and for who finds the claim, and that its hold has ended meanwhile. So what is found ripe
without proof is taken at a second look, when the store has answered for longer than anybody waits
before he tries it again.

And a store whose clock has stepped forward, as a new primary's may, ends leases of the living: so
by our own clock, too, an attempt has been watched for as long as its lease is.
"""

from __future__ import annotations

from collections.abc import Iterable

from worker.domain.grant import AttemptId

TURN = 5.0  # seconds of a store that answers; a commit is tried again every two
_MANY = 100_000  # remembered; those that others took are among them
_LONGEST_GAP = 20.0  # seconds between looks; who looked away longer knows nothing of what was


class Trusted:
    """Of one process. Times are monotonic seconds, handed in."""

    def __init__(self) -> None:
        self._found: dict[AttemptId, float] = {}  # since when ripe
        self._watched: dict[AttemptId, float] = {}  # since when unfinished, by the store's clock
        self._looked_at: dict[str, float] = {}

    def looks(self, provider: str, now: float) -> None:
        """Told at each look at the unfinished attempts of a provider."""
        if now - self._looked_at.get(provider, now) > _LONGEST_GAP:
            self.forget()
        self._looked_at[provider] = now

    def sees(self, attempts: Iterable[AttemptId], now: float) -> None:
        """Told at each look which attempts are unfinished."""
        if len(self._watched) > _MANY:
            self._watched.clear()
        for attempt in attempts:
            self._watched.setdefault(attempt, now)

    def may_take(self, attempt: AttemptId, now: float, *, lease: float) -> bool:
        """Whether it has been found so for long enough."""
        if len(self._found) > _MANY:
            self.forget()
        had_its_turn = now - self._found.setdefault(attempt, now) >= TURN
        return had_its_turn and now - self._watched.get(attempt, now) >= lease

    def forget(self) -> None:
        self._found.clear()
