"""What happens at one provider, counted in plain numbers and told to the metrics in groups.

Counting in a metric takes a lock and, where all processes count together, a write into a file:
ten times a renewal that is a tenth of its cost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from worker.domain.exchange import Answered, NotSent, Outcome, Uncertain
from worker.monitoring.metrics import (
    EXCHANGE_SECONDS,
    EXCHANGES,
    IN_FLIGHT,
    LATENESS,
    RENEWALS,
    TENANT_RENEWALS,
    TIME_TO_EXPIRY,
    observe_all,
)
from worker.renewal.breaking import broke

_FATES = {NotSent: "not_sent", Uncertain: "uncertain", Answered: "answered"}


@dataclass(slots=True)
class Counts:
    """Of one provider, in one process. Bounded by how much is under way between two `tell`."""

    provider: str
    in_flight: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (tenant, verdict)
    seconds: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    time_to_expiry: list[float] = field(default_factory=list)

    def exchanged(self, outcome: Outcome, seconds: float) -> None:
        self.fates[_FATES[type(outcome)]] += 1
        self.seconds.append(seconds)

    def tell(self) -> None:
        """Bring the metrics up to date. What cannot be told is not told again."""
        try:
            self._tell()
        finally:
            self.fates.clear()
            self.verdicts.clear()
            for values in (self.seconds, self.lateness, self.time_to_expiry):
                values.clear()

    def _tell(self) -> None:
        IN_FLIGHT.labels(self.provider).set(self.in_flight)
        for fate, count in self.fates.items():
            EXCHANGES.labels(self.provider, fate).inc(count)
        for (tenant, verdict), count in self.verdicts.items():
            RENEWALS.labels(self.provider, verdict).inc(count)
            TENANT_RENEWALS.labels(tenant, verdict).inc(count)
        for values, histogram in (
            (self.seconds, EXCHANGE_SECONDS),
            (self.lateness, LATENESS),
            (self.time_to_expiry, TIME_TO_EXPIRY),
        ):
            if values:
                observe_all(histogram.labels(self.provider), values)


class Counting:
    """Of one engine: entries of the catalogue are few."""

    def __init__(self) -> None:
        self._of: dict[str, Counts] = {}

    def of(self, provider: str) -> Counts:
        found = self._of.get(provider)
        if found is None:
            found = self._of[provider] = Counts(provider)
        return found

    def tell(self) -> None:
        """Never raises: what happened matters more than that it is counted."""
        for counts in self._of.values():
            try:
                counts.tell()
            except Exception as error:
                broke("counting_broke", error)
