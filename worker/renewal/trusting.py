"""A takeover for which nothing speaks but time lets everybody else have his turn first.

A store that was away comes back for all at once: for who holds the successor and could not write
it, and for who finds the claim, and that its hold has ended meanwhile. So what is found ripe
without proof is taken at a second look, when the store has answered for longer than anybody waits
before he tries it again.
"""

from __future__ import annotations

from worker.domain.grant import AttemptId

TURN = 5.0  # seconds of a store that answers; a commit is tried again every two
_MANY = 100_000  # remembered; those that others took are among them
_LONGEST_GAP = 20.0  # seconds between looks; who looked away longer knows nothing of what was


class Trusted:
    """Of one process. Times are monotonic seconds, handed in."""

    def __init__(self) -> None:
        self._found: dict[AttemptId, float] = {}  # since when
        self._looked_at: dict[str, float] = {}

    def looks(self, provider: str, now: float) -> None:
        """Told at each look at the unfinished attempts of a provider."""
        if now - self._looked_at.get(provider, now) > _LONGEST_GAP:
            self.forget()
        self._looked_at[provider] = now

    def may_take(self, attempt: AttemptId, now: float) -> bool:
        """Whether it has been found so for long enough."""
        if len(self._found) > _MANY:
            self.forget()
        return now - self._found.setdefault(attempt, now) >= TURN

    def forget(self) -> None:
        self._found.clear()
