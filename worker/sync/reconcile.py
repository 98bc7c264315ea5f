"""Once a night a tenant is read again, slowly, to find what no event told: first who has logged in
since the night before and is a stranger here, then every user with a grant.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from worker.auth0 import ManagementApi, Priority
from worker.auth0.budget import SHARE
from worker.domain.errors import ConfigurationError, NotFoundError, TransientError, WorkerError
from worker.domain.merge import Decision, Kind
from worker.domain.ports import Clock, Offload
from worker.monitoring.metrics import DIVERGENCE
from worker.store.findings import FindingRepository
from worker.sync.listing import LastLogin, Place, pages_of_logins
from worker.sync.puller import Puller

MISSING_HERE = "missing_here"
NEWER_UPSTREAM = "newer_upstream"
ORPHANED_HERE = "orphaned_here"
_NEWER = frozenset({Kind.ADOPT, Kind.PROMOTE, Kind.TAKE_ACCESS_TOKEN, Kind.KEEP_CANDIDATE})

_log = structlog.get_logger("worker.sync")

_Page = Sequence[LastLogin]
_OVERLAP = timedelta(hours=1)  # the search index lags, and clocks differ
_FIRST = timedelta(hours=24)  # what a first round looks back
_LOGINS = "logins since "  # a place in the first part; a user id, in the second, has a bar
_TRIES = 5  # more, of a search that fails: for a minute
_AWAY = 8  # users in a row who cannot be read: it is not they who are the trouble
_OWN_STRATEGIES = frozenset({"auth0", "email", "sms"})  # no identity provider stands behind them


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """How far we were from the tenant."""

    read: int = 0
    missing_here: int = 0  # identities with tokens that we held no grant for
    newer_upstream: int = 0  # logins that no event had told of
    orphaned_here: int = 0  # users of ours whom Auth0 does not know
    failed: int = 0
    next_place: str | None = None  # where to go on; None: the round is complete


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
        on_missing: Callable[[str], Awaitable[None]],
        clock: Clock,
        offload: Offload,
        share: float = 0.2,
        databases: Collection[str] = (),
    ) -> None:
        """`on_missing(user id)`: Auth0 does not know him; one look of this round does not prove
        it. `databases`: connections whose login scripts bring tokens."""
        _, bucket = api.budget.plan.bucket("users")
        self._api = api
        self._puller = puller
        self._findings = findings
        self._on_missing = on_missing
        self._databases = frozenset(databases)
        self._clock = clock
        self._offload = offload
        self._pause = 1 / (bucket.rate * SHARE * share)  # seconds between two requests

    async def run(
        self, *, after: str = "", since: datetime | None = None, seconds: float = 240
    ) -> Divergence:
        """Go on at the place `after`, for about so many seconds.

        Args:
            since: when the round before began; logins are looked for from then on.
        Raises: ConfigurationError; TransientError when nobody can be read.
        """
        round_ = _Slice(self._clock.monotonic() + seconds)
        if not after:
            began = (since or self._clock.now() - _FIRST) - _OVERLAP
            after = _LOGINS + began.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        if after.startswith(_LOGINS):
            place = await self._strangers(round_, Place(after.removeprefix(_LOGINS)))
            if place is not None:
                return replace(round_.found, next_place=_LOGINS + place)
            after = ""
        following = await self._users(round_, after)
        return replace(round_.found, next_place=following)

    async def _strangers(self, round_: _Slice, place: Place) -> str | None:
        """Read whoever has logged in and is unknown here; returns where to go on."""
        began = place.since
        async for page in self._logins(place):
            await self._clock.sleep(self._pause)
            logins = {one.user_id: one.at for one in page if self._may_have_tokens(one)}
            tenant = self._api.tenant
            for user_id in await self._offload(self._findings.strangers, tenant, logins):
                await self._one(user_id, round_)
            if self._over(round_) and place.since != began:
                return place.since
        return None

    def _may_have_tokens(self, login: LastLogin) -> bool:
        """Not a mere password, code or mail: but a linked account, whatever the user's own id is,
        or a database whose login scripts bring tokens."""
        first = (login.user_id.partition("|")[0], "")
        return any(
            strategy not in _OWN_STRATEGIES or connection in self._databases
            for strategy, connection in login.accounts or (first,)
        )

    async def _logins(self, place: Place) -> AsyncIterator[_Page]:
        """From there on. Where the search cannot be asked for a minute, or at all, the second part
        is the night."""
        tries = 0
        while True:
            try:
                async for page in pages_of_logins(self._api, place):
                    tries = 0
                    yield page
                return
            except ConfigurationError:
                raise
            except WorkerError as error:
                _log.warning("logins_not_listed", tenant=self._api.tenant, code=error.code)
                if tries == _TRIES or not isinstance(error, TransientError):
                    return
            tries += 1
            await self._clock.sleep(2.0**tries)

    async def _users(self, round_: _Slice, after: str) -> str | None:
        while users := await self._offload(
            self._findings.users, self._api.tenant, after=after, limit=100
        ):
            for user_id in users:
                if round_.found.read and self._over(round_):
                    return after
                await self._one(user_id, round_)
                after = user_id
        return None

    def _over(self, round_: _Slice) -> bool:
        return self._clock.monotonic() >= round_.deadline

    async def _one(self, user_id: str, round_: _Slice) -> None:
        found = replace(round_.found, read=round_.found.read + 1)
        try:
            round_.found = await self._read(user_id, found)
            round_.away = 0
        except ConfigurationError:
            raise
        except WorkerError as error:
            round_.found = replace(found, failed=found.failed + 1)
            round_.away += 1
            if round_.away >= _AWAY:
                raise TransientError(
                    f"{self._api.tenant}: nobody can be read", code=error.code
                ) from error
        await self._clock.sleep(self._pause)

    async def _read(self, user_id: str, found: Divergence) -> Divergence:
        tenant = self._api.tenant
        try:
            merged = await self._puller.read(tenant, user_id, priority=Priority.BACKFILL)
        except NotFoundError:
            DIVERGENCE.labels(tenant, ORPHANED_HERE).inc()
            await self._on_missing(user_id)
            return replace(found, orphaned_here=found.orphaned_here + 1)
        kinds = [difference_of(grant.decision) for grant in merged.grants]
        missing, newer = kinds.count(MISSING_HERE), kinds.count(NEWER_UPSTREAM)
        DIVERGENCE.labels(tenant, MISSING_HERE).inc(missing)
        DIVERGENCE.labels(tenant, NEWER_UPSTREAM).inc(newer)
        return replace(
            found,
            missing_here=found.missing_here + missing,
            newer_upstream=found.newer_upstream + newer,
        )


@dataclass(slots=True)
class _Slice:
    """What one `run` has come to."""

    deadline: float
    found: Divergence = Divergence()
    away: int = 0  # users in a row, up to now, who could not be read
