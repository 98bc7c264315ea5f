"""What one provider host bears: concurrency, rate, pauses, and a circuit breaker.

Concurrency grows by one per answer until the first trouble and by one per round after it, and is
halved by trouble. The rate follows 429s. Nothing of one host is felt by another.
"""

from __future__ import annotations

from worker.domain.exchange import Limits

_START = 10
_TROUBLES_TO_OPEN = 5  # in a row
_SHORTEST_OPEN = 5.0  # seconds; doubles while probes fail
_LONGEST_OPEN = 300.0
_HALVE_EVERY = 1.0  # seconds: a burst of troubles is one trouble
_LEAST_RATE = 0.1  # per second
# Seconds whose unused places may be taken later: answers come in bunches, and to hold each of the
# next requests back for a fraction of a millisecond costs more than it spares the host.
_UNUSED = 0.02


class Pace:
    """Of one host, in one process. Times are monotonic seconds, handed in."""

    def __init__(self, limits: Limits) -> None:
        self._cap = float(max(1, limits.concurrency))
        self._limit = min(self._cap, float(_START))
        self._slow_start = True
        self._full_rate = limits.per_second
        self._rate = limits.per_second
        self._next_slot = 0.0
        self._halved_at = float("-inf")
        self._troubles = 0
        self._open_for = 0.0
        self._until = float("-inf")

    @property
    def limit(self) -> int:
        """How many exchanges may be under way. One, while the circuit is half open."""
        return 1 if self._open_for else int(self._limit)

    def shut_until(self, now: float) -> float | None:
        """The end of a pause, if one holds."""
        return self._until if now < self._until else None

    def slot(self, now: float) -> float:
        """Take the next place in the rate; the seconds to wait for it."""
        start = max(now - _UNUSED, self._next_slot)
        self._next_slot = start + 1.0 / self._rate
        return max(0.0, start - now)

    def backlog(self, now: float) -> float:
        """Seconds of places given out already."""
        return max(0.0, self._next_slot - now)

    def answered(self) -> None:
        """The host is well: it answered, whatever it said of the grant."""
        self._troubles, self._open_for = 0, 0.0
        step = 1.0 if self._slow_start else 1.0 / self._limit
        self._limit = min(self._cap, self._limit + step)
        self._rate = min(self._full_rate, self._rate + self._full_rate / 100)

    def trouble(self, now: float) -> float | None:
        """No connection, no answer, or a 5xx; the end of a pause that begins with it, if any."""
        self._halve(now)
        self._troubles += 1
        half_open = self._open_for > 0
        if not half_open and self._troubles < _TROUBLES_TO_OPEN:
            return None
        if now < self._until:
            return None  # an exchange from before the pause
        self._open_for = min(_LONGEST_OPEN, self._open_for * 2 or _SHORTEST_OPEN)
        return self.pause(now + self._open_for)

    def throttled(self, now: float) -> None:
        """A 429: fewer at once, and fewer per second."""
        if self._halve(now):
            self._rate = max(_LEAST_RATE, min(self._rate, self._full_rate) / 2)

    def pause(self, until: float) -> float:
        self._until = max(self._until, until)
        return self._until

    def _halve(self, now: float) -> bool:
        self._slow_start = False
        if now - self._halved_at < _HALVE_EVERY:
            return False
        self._halved_at = now
        self._limit = max(1.0, self._limit / 2)
        return True
