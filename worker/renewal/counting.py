"""The metrics of one provider, looked up once: finding a label costs more than counting."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from worker.domain.exchange import Answered, NotSent, Uncertain
from worker.monitoring.metrics import (
    EXCHANGE_SECONDS,
    EXCHANGES,
    IN_FLIGHT,
    LATENESS,
    RENEWALS,
    TIME_TO_EXPIRY,
)


@dataclass(frozen=True, slots=True)
class Counts:
    provider: str
    exchanges: dict[type, Counter]
    seconds: Histogram
    in_flight: Gauge
    lateness: Histogram
    time_to_expiry: Histogram
    verdicts: dict[str, Counter] = field(default_factory=dict)

    def verdict(self, word: str) -> Counter:
        found = self.verdicts.get(word)
        if found is None:
            found = self.verdicts[word] = RENEWALS.labels(self.provider, word)
        return found


@cache
def counts_of(provider: str) -> Counts:
    """Entries of the catalogue are few."""
    return Counts(
        provider=provider,
        exchanges={
            NotSent: EXCHANGES.labels(provider, "not_sent"),
            Uncertain: EXCHANGES.labels(provider, "uncertain"),
            Answered: EXCHANGES.labels(provider, "answered"),
        },
        seconds=EXCHANGE_SECONDS.labels(provider),
        in_flight=IN_FLIGHT.labels(provider),
        lateness=LATENESS.labels(provider),
        time_to_expiry=TIME_TO_EXPIRY.labels(provider),
    )
