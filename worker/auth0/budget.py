"""How many requests a tenant's plan bears, and our share of it.

The limit is the tenant's, shared with the customer's own applications and Actions, so we stay at
a part of it. All our processes draw from one bucket in the store; live events go before forced
reads, and those before backfill, because the less urgent must leave something in the bucket. But a
small part of what flows back is theirs in any case: behind a backlog of live events, which may take
hours, the log would not be followed otherwise, and who was blocked or deleted not be found.

Source: https://auth0.com/docs/troubleshoot/customer-support/operational-policies/rate-limit-policy
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from worker.domain.errors import ConfigurationError, TransientError
from worker.domain.ports import Clock, Offload, Tenants

SHARE = 0.6  # of the plan's rate and burst
_LOCAL_SECONDS = 0.1  # worth of requests drawn at once, so that a fast tenant costs few writes
_PATIENCE = 30.0  # seconds to wait for a live request's turn; longer belongs to the caller
_LEAST_WAIT = 0.01  # seconds; a wait that rounds to nothing would spin
_LONGEST_PAUSE = timedelta(seconds=60)  # after a 429 that named no sensible time


class Priority(Enum):
    """Who is served while the bucket is low: the value is the part of it that is left to others."""

    LIVE = 0.0
    FORCED = 0.2
    BACKFILL = 0.5


_OWN = {Priority.FORCED: 0.1, Priority.BACKFILL: 0.05}  # of the rate, while live events take all


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests per second, and how many at once."""

    rate: float
    burst: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Auth0's buckets of one plan. A group without its own draws from "all"."""

    name: str
    buckets: Mapping[str, Bucket]

    def bucket(self, group: str) -> tuple[str, Bucket]:
        """(its name, its size) for "users", "connections", "logs"."""
        name = group if group in self.buckets else "all"
        return name, self.buckets[name]


def _global(name: str, rate: float, burst: float | None = None) -> Plan:
    return Plan(name, {"all": Bucket(rate, burst if burst is not None else rate)})


def _per_group(name: str) -> Plan:
    groups = {
        "users": Bucket(500 / 60, 40),
        "connections": Bucket(50 / 60, 5),
        "logs": Bucket(100 / 60, 10),
        "all": Bucket(50 / 60, 5),  # as the smallest, for whatever else we may ask
    }
    return Plan(name, groups)


PLANS: Mapping[str, Plan] = {
    plan.name: plan
    for plan in (
        _global("free", 2),
        _per_group("essentials"),
        _per_group("professional"),
        _global("enterprise", 16, 50),
        _global("enterprise-nonproduction", 2, 10),
        _global("private-dev", 20),
        _global("private-1x", 50),
        _global("private-5x", 250),
        _global("private-15x", 750),
        _global("private-30x", 1500),
        _global("private-60x", 3000),
        _global("private-100x", 5000),
    )
}


def plan_named(name: str | None, *, requests_per_second: float | None = None) -> Plan:
    """The plan as configured; the free one where nothing is said, which no tenant undercuts.

    `requests_per_second` is our own ceiling, whatever the plan. Raises: ConfigurationError.
    """
    if requests_per_second is not None:
        whole = requests_per_second / SHARE
        return _global("custom", whole, max(whole, 2.0))
    if name is None:
        return PLANS["free"]
    if plan := PLANS.get(name.strip().lower()):
        return plan
    raise ConfigurationError(f"plan {name!r} is not one of {', '.join(PLANS)}")


class Budget:
    """One tenant's budget, as one process draws on it."""

    def __init__(
        self, tenant: str, plan: Plan, tenants: Tenants, *, clock: Clock, offload: Offload
    ) -> None:
        self.tenant = tenant
        self.plan = plan
        self._tenants = tenants
        self._clock = clock
        self._offload = offload
        self._drawn: dict[str, int] = {}  # bucket → requests drawn and not used yet

    async def take(self, group: str, priority: Priority) -> None:
        """Return when one request may leave.

        Raises: TransientError where a live or forced request would wait too long; backfill waits.
        """
        name, bucket = self.plan.bucket(group)
        waited = 0.0
        while not self._use(name):
            wait = await self._draw(name, bucket, priority)
            if priority is not Priority.BACKFILL and waited + wait > _PATIENCE:
                raise TransientError(
                    f"{self.tenant}: request budget spent",
                    code="budget",
                    retry_after=timedelta(seconds=wait),
                )
            if wait:
                await self._clock.sleep(wait)
                waited += wait

    async def pause(self, until: datetime) -> None:
        """Auth0 answered 429: no process asks before `until`."""
        self._drawn.clear()
        await self._offload(self._tenants.block, self.tenant, until)

    def _use(self, name: str) -> bool:
        left = self._drawn.get(name, 0)
        if left:
            self._drawn[name] = left - 1
        return bool(left)

    async def _draw(self, name: str, bucket: Bucket, priority: Priority) -> float:
        """Seconds to wait; 0 when requests were drawn."""
        rate, burst = bucket.rate * SHARE, max(1.0, bucket.burst * SHARE)
        n = max(1, math.floor(rate * _LOCAL_SECONDS)) if priority is not Priority.BACKFILL else 1
        reserve = max(0.0, (burst - n) * priority.value)
        part = _OWN.get(priority)
        wait = await self._offload(
            self._tenants.take,
            self.tenant,
            name,
            rate,
            burst,
            self._clock.now(),
            n=n,
            reserve=reserve,
            own=(priority.name.lower(), rate * part) if part else None,
        )
        if not wait:
            self._drawn[name] = self._drawn.get(name, 0) + n
            return 0.0
        return max(wait, _LEAST_WAIT)


def pause_asked(headers: Mapping[str, str], *, now: datetime, tries: int = 0) -> timedelta:
    """How long a 429 asks us to stay away.

    `Retry-After` if it is there (documented for quotas, not for plain 429s), else
    `x-ratelimit-reset` with up to 20 % on top, so that processes do not come back as one, else
    doubling from a second. At most a minute, but for an explicit `Retry-After`.
    """
    told = _number(headers.get("retry-after"))
    if told is not None and told > 0:
        return timedelta(seconds=min(told, 86_400))
    reset = _number(headers.get("x-ratelimit-reset"))
    if reset is not None and reset > now.timestamp():
        seconds = (reset - now.timestamp()) * (1 + 0.2 * random.random())  # noqa: S311 - jitter
        return min(timedelta(seconds=seconds), _LONGEST_PAUSE)
    return min(timedelta(seconds=2.0**tries), _LONGEST_PAUSE)


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None
