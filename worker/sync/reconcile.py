"""Once a night every user with a grant is read again, slowly, to find what no event told."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worker.auth0 import ManagementApi, Priority
from worker.auth0.budget import SHARE
from worker.domain.errors import ConfigurationError, NotFoundError, WorkerError
from worker.domain.merge import Decision, Kind
from worker.domain.ports import Clock, Offload
from worker.monitoring.metrics import DIVERGENCE
from worker.store.findings import FindingRepository
from worker.sync.puller import Puller

MISSING_HERE = "missing_here"
NEWER_UPSTREAM = "newer_upstream"
ORPHANED_HERE = "orphaned_here"
_NEWER = frozenset({Kind.ADOPT, Kind.PROMOTE, Kind.TAKE_ACCESS_TOKEN, Kind.KEEP_CANDIDATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """How far we were from the tenant."""

    read: int = 0
    missing_here: int = 0  # identities with tokens that we held no grant for
    newer_upstream: int = 0  # logins that no event had told of
    orphaned_here: int = 0  # users of ours whom Auth0 does not know
    failed: int = 0
    next_user: str | None = None  # where to go on; None: the round is complete


def difference_of(decision: Decision) -> str | None:
    """How a decision counts; None: there was no difference."""
    if decision.kind is Kind.CREATE:
        return MISSING_HERE
    return NEWER_UPSTREAM if decision.kind in _NEWER else None


class Reconcile:
    """Reads within a share of what the budget allows, so that a night's round starves nobody."""

    def __init__(
        self,
        api: ManagementApi,
        puller: Puller,
        findings: FindingRepository,
        *,
        clock: Clock,
        offload: Offload,
        share: float = 0.2,
    ) -> None:
        _, bucket = api.budget.plan.bucket("users")
        self._api = api
        self._puller = puller
        self._findings = findings
        self._clock = clock
        self._offload = offload
        self._pause = 1 / (bucket.rate * SHARE * share)  # seconds between two reads

    async def run(self, *, after: str = "", seconds: float = 240) -> Divergence:
        """Go on after user `after`, for about so many seconds. Raises: ConfigurationError."""
        deadline = self._clock.monotonic() + seconds
        found = Divergence()
        while users := await self._offload(
            self._findings.users, self._api.tenant, after=after, limit=100
        ):
            for user_id in users:
                if found.read and self._clock.monotonic() >= deadline:
                    return replace(found, next_user=after)
                found = await self._one(user_id, found)
                after = user_id
                await self._clock.sleep(self._pause)
        return found

    async def _one(self, user_id: str, found: Divergence) -> Divergence:
        tenant = self._api.tenant
        found = replace(found, read=found.read + 1)
        try:
            merged = await self._puller.read(tenant, user_id, priority=Priority.BACKFILL)
        except NotFoundError:
            DIVERGENCE.labels(tenant, ORPHANED_HERE).inc()
            return replace(found, orphaned_here=found.orphaned_here + 1)
        except ConfigurationError:
            raise
        except WorkerError:
            return replace(found, failed=found.failed + 1)
        kinds = [difference_of(grant.decision) for grant in merged.grants]
        missing, newer = kinds.count(MISSING_HERE), kinds.count(NEWER_UPSTREAM)
        DIVERGENCE.labels(tenant, MISSING_HERE).inc(missing)
        DIVERGENCE.labels(tenant, NEWER_UPSTREAM).inc(newer)
        return replace(
            found,
            missing_here=found.missing_here + missing,
            newer_upstream=found.newer_upstream + newer,
        )
