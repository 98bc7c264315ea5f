"""What an outage leaves behind and how it drains: renewals of one provider in virtual time.

Grants are counted in steps of time, not followed one by one, so a million cost what ten do. The
rules are the engine's: soonest to expire first, no faster than the caps.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate, pairwise

STEP = 10.0  # seconds
_CALM = 6  # steps without any backlog, after which a drain is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Grants of one provider that renew alike.

    Attributes:
        dues: seconds from now to the next renewal of each, with how many; overdue ones at 0.
        life: seconds an access token lives.
        margin: seconds of that left when it is renewed in time.
    """

    dues: Sequence[tuple[float, int]]
    life: float
    margin: float

    @property
    def grants(self) -> int:
        return sum(count for _, count in self.dues)

    @property
    def steady(self) -> float:
        """Renewals per second where nothing is in the way."""
        return self.grants / max(STEP, self.life - self.margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """What comes of it. Times in seconds from the beginning of the outage."""

    curve: Sequence[float]  # renewals per second, by `STEP`
    backlog: int  # overdue when the outage ends
    drained_at: float | None  # nothing is overdue any more; None: never, the cap is too low
    fresh_at: float | None  # nothing has expired any more
    expired: int  # at the worst moment
    peak_to_mean: float  # of the load from the end of the outage until it is drained


def even(grants: int, *, life: float, margin: float) -> Load:
    """As many, issued evenly over time."""
    period = max(STEP, life - margin)
    steps = max(1, int(period / STEP))
    shares = [grants * n // steps for n in range(steps + 1)]
    dues = [(n * STEP, shares[n + 1] - shares[n]) for n in range(steps)]
    return Load(dues=dues, life=life, margin=margin)


def drain(loads: Iterable[Load], *, outage: timedelta, per_second: float) -> Drain:
    """Play the outage and what follows, at most a week or ten lives.

    Args:
        per_second: what the provider's host takes from all workers together, > 0.
    """
    loads = [load for load in loads if load.grants]
    end = outage.total_seconds()
    longest = max((load.life for load in loads), default=0.0)
    horizon = end + max(10 * longest, 7 * 86_400.0)
    waiting = _Waiting(loads)
    curve: list[float] = []
    backlogs: list[int] = []
    expired: list[int] = []
    now, calm, carried = 0.0, 0, 0.0
    while now < horizon and calm < _CALM:
        waiting.fall_due(now)
        carried = min(carried + (per_second * STEP if now >= end else 0.0), per_second * STEP * 2)
        done = waiting.renew(int(carried), now)
        carried -= done
        curve.append(done / STEP)
        backlogs.append(waiting.overdue)
        expired.append(waiting.expired(now))
        calm = calm + 1 if now >= end and not waiting.overdue else 0
        now += STEP
    return _told(curve, backlogs, expired, end)


class _Waiting:
    """Who is overdue, soonest to expire first, and who falls due when."""

    def __init__(self, loads: Sequence[Load]) -> None:
        self._coming: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._loads = loads
        self._queues: list[deque[tuple[float, int]]] = [deque() for _ in loads]  # (expires, count)
        self.overdue = 0
        for number, load in enumerate(loads):
            for due, count in load.dues:
                self._coming[int(max(0.0, due) / STEP)][number] += count

    def fall_due(self, now: float) -> None:
        for number, count in self._coming.pop(int(now / STEP), {}).items():
            self._queues[number].append((now + self._loads[number].margin, count))
            self.overdue += count

    def renew(self, most: int, now: float) -> int:
        done = 0
        while done < most and self.overdue:
            number = min(
                (n for n, queue in enumerate(self._queues) if queue),
                key=lambda n: self._queues[n][0][0],
            )
            expires, count = self._queues[number].popleft()
            taken = min(count, most - done)
            if taken < count:
                self._queues[number].appendleft((expires, count - taken))
            load = self._loads[number]
            again = now + max(STEP, load.life - load.margin)
            self._coming[int(again / STEP)][number] += taken
            self.overdue -= taken
            done += taken
        return done

    def expired(self, now: float) -> int:
        return sum(count for queue in self._queues for end, count in queue if end <= now)


def _told(
    curve: Sequence[float], backlogs: Sequence[int], expired: Sequence[int], end: float
) -> Drain:
    first = min(int(end / STEP), max(0, len(curve) - 1))
    last = next((n for n in range(first, len(curve)) if not backlogs[n]), None)
    stale = [n for n in range(len(expired)) if expired[n]]
    part = list(curve[first : (last or len(curve) - 1) + 1])
    mean = sum(part) / len(part) if part else 0.0
    ends_stale = bool(stale) and stale[-1] == len(expired) - 1
    return Drain(
        curve=curve,
        backlog=backlogs[max(0, first - 1)] if end else 0,
        drained_at=None if last is None else last * STEP,
        fresh_at=None if ends_stale else (stale[-1] + 1) * STEP if stale else 0.0,
        expired=max(expired, default=0),
        peak_to_mean=max(part) / mean if mean else 1.0,
    )


def sparkline(curve: Sequence[float], width: int = 60) -> str:
    """The load over time, as one line of bars."""
    if not curve:
        return ""
    edges = [len(curve) * n // width for n in range(width + 1)]
    sums = [0.0, *accumulate(curve)]
    spans = [(a, b) for a, b in pairwise(edges) if b > a]
    means = [(sums[b] - sums[a]) / (b - a) for a, b in spans]
    top = max(means) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * mean / top))] for mean in means)
