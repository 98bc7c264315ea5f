"""Auth0's rate limits per plan, enforced.

Source: https://auth0.com/docs/troubleshoot/customer-support/operational-policies/rate-limit-policy
(token buckets; headers x-ratelimit-limit, -remaining, -reset in Unix seconds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rule:
    burst: int
    per_second: float


# One bucket under "" counts for every endpoint; otherwise one per endpoint group.
PLANS: Mapping[str, Mapping[str, Rule]] = {
    "free": {"": Rule(2, 2)},
    "essentials": {
        "users": Rule(40, 500 / 60),
        "connections": Rule(5, 50 / 60),
        "logs": Rule(10, 100 / 60),
    },
    "professional": {
        "users": Rule(40, 500 / 60),
        "connections": Rule(5, 50 / 60),
        "logs": Rule(10, 100 / 60),
    },
    "enterprise": {"": Rule(50, 16)},
    "enterprise-nonproduction": {"": Rule(10, 2)},
    "private-dev": {"": Rule(20, 20)},
    "private-1x": {"": Rule(50, 50)},
    "private-5x": {"": Rule(250, 250)},
    "private-15x": {"": Rule(750, 750)},
    "private-30x": {"": Rule(1500, 1500)},
    "private-60x": {"": Rule(3000, 3000)},
    "private-100x": {"": Rule(5000, 5000)},
    "unlimited": {},
}


@dataclass(slots=True)
class Bucket:
    rule: Rule
    left: float
    at: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass, and what the answer says about it."""

    passed: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    tenant_wide: bool = False


class Buckets:
    """The buckets of one tenant."""

    def __init__(self, plan: str, *, clock: Callable[[], float]) -> None:
        now = clock()
        self.plan = plan
        self._clock = clock
        self._buckets = {name: Bucket(rule, rule.burst, now) for name, rule in PLANS[plan].items()}
        self.refused = 0

    def take(self, group: str) -> Verdict:
        """Take one request of an endpoint group: "users", "connections", "logs", …"""
        name = "" if "" in self._buckets else group
        bucket = self._buckets.get(name)
        if bucket is None:
            return Verdict(True)
        now, rule = self._clock(), bucket.rule
        bucket.left = min(rule.burst, bucket.left + (now - bucket.at) * rule.per_second)
        bucket.at = now
        passed = bucket.left >= 1
        bucket.left -= passed
        self.refused += not passed
        more_at = now + (1 - bucket.left % 1) / rule.per_second
        headers = {
            "x-ratelimit-limit": str(rule.burst),
            "x-ratelimit-remaining": str(int(bucket.left)),
            "x-ratelimit-reset": str(math.ceil(more_at)),
        }
        return Verdict(passed, headers, tenant_wide=name == "")
