"""Finds due work, claims it, retakes what was left unfinished, and makes claims ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from worker.domain.attempt import Ending, Unfinished
from worker.domain.errors import ConfigurationError, TransientError
from worker.domain.exchange import Rotation
from worker.domain.grant import Claim, GrantId, GrantKey
from worker.domain.ports import Offload, Vault
from worker.domain.rotation import SHORTEST_LEASE, Rules, may_retake, on_trust, rules_for
from worker.monitoring.metrics import TAKEOVERS
from worker.renewal.breaking import broke
from worker.renewal.endings import Endings
from worker.renewal.ports import Claims, DueWork, NodeJournals
from worker.renewal.prepared import Prepared
from worker.renewal.resolving import Resolver
from worker.renewal.store_clock import StoreClock
from worker.renewal.trusting import Trusted

LOOK_EVERY = 1.0  # seconds between looks at which tenants have due work, and at the unfinished
SLOW_SWEEP = 30.0  # seconds a watermark is trusted
OWN_EVERY = 10.0  # seconds between looks for claims of ours that do not live here: hardly ever any


class Claimed(Struct, frozen=True):
    """A claim, and when on our monotonic clock it was asked for: its lease ends no sooner."""

    claim: Claim
    began: float
    lease: float
    earlier_gone: bool = False


class Finder:
    """One per engine; what it remembers only saves looks, and is never needed to be right."""

    def __init__(
        self,
        claims: Claims,
        journals: NodeJournals,
        resolver: Resolver,
        endings: Endings,
        vault: Vault,
        *,
        node: str,
        process: str,
        clock: StoreClock,
        offload: Offload,
        live: Mapping[tuple[GrantId, int], Claim],
    ) -> None:
        self._claims = claims
        self._journals = journals
        self._resolver = resolver
        self._endings = endings
        self._vault = vault
        self._node = node
        self._process = process
        self._clock = clock
        self._offload = offload
        self._live = live
        self._due: Sequence[DueWork] = ()
        self._due_until = float("-inf")
        self._looked_at: dict[str, float] = {}
        self._since: dict[tuple[str, str], datetime] = {}
        self._since_until = float("-inf")
        self._lease: dict[str, float] = {}  # what claims of a provider mostly need
        self._own_until: dict[str, float] = {}
        self._trusted = Trusted()

    def doubt(self) -> None:
        """The store was away for us, and perhaps for others too: claims may have been made that
        nobody has heard of."""
        self._trusted.forget()
        self._own_until.clear()

    async def due(self, *, fresh: bool = False) -> Sequence[DueWork]:
        """But not of tenants whose keyring does not open: what is claimed must be opened next."""
        now = self._clock.monotonic()
        if fresh or now >= self._due_until:
            shut = self._vault.closed()
            found = await self._offload(self._claims.due)
            self._due = [work for work in found if work.tenant not in shut] if shut else found
            self._due_until = now + LOOK_EVERY
        return self._due

    async def claim(self, provider: str, *, room: int) -> list[Claimed]:
        """As many as there is room for, in equal parts to the tenants that have due work."""
        if room <= 0:
            return []
        since = await self._since_when(provider)
        if not since:
            return []
        lease = self._lease.get(provider, SHORTEST_LEASE)
        began = self._clock.monotonic()
        claims = await self._offload(
            self._claims.claim_due,
            provider,
            list(since),
            each=-(-room // len(since)),
            lease=lease,
            since=self._watermarks(provider, since),
        )
        self._remember(provider, claims)
        self._listen(claims)
        return [Claimed(claim=claim, began=began, lease=lease) for claim in claims]

    async def take_over(self, provider: str) -> list[Claimed]:
        """Attempts that others, or we ourselves, left unfinished, as far as their class allows."""
        now = self._clock.monotonic()
        if now - self._looked_at.get(provider, float("-inf")) < LOOK_EVERY:
            return []
        self._looked_at[provider] = now
        dead = await self._offload(self._journals.replayed_names)
        since = await self._since_when(provider)
        gone = sorted({*dead, *self._own(provider, now)})
        found = await self._offload(self._claims.unfinished, provider, list(since), gone, since)
        found = [one for one in found if (one.grant, one.fence) not in self._live]
        await self._resolver.prefetch(one.key for one in found)
        self._trusted.looks(provider, now)
        self._trusted.sees((one.earlier.attempt for one in found), now)
        ripe = [one for one in found if await self._ripe_or_not(one, dead)]
        if not ripe:
            return []
        return await self._take(provider, ripe, dead)

    async def prepare(self, claimed: Sequence[Claimed]) -> list[Prepared | Ending]:
        """Connection, provider and rules of each; longer leases where the class needs them."""
        await self._resolver.prefetch(one.claim.key for one in claimed)
        ready = [self._ready_or_off(one) for one in claimed]
        short = [one for one in ready if isinstance(one, Prepared) and one.lease_is_short]
        if not short:
            return ready
        lost = await self._lengthen(short)
        return [
            self._endings.put_off(one.claim, "lease_lost", 1.0)
            if isinstance(one, Prepared) and one.claim.grant in lost
            else one
            for one in ready
        ]

    async def _since_when(self, provider: str) -> dict[str, datetime]:
        """The longest overdue of each tenant that has due work."""
        return {w.tenant: w.since for w in await self.due() if w.provider == provider}

    def _watermarks(self, provider: str, since: Mapping[str, datetime]) -> dict[str, datetime]:
        """Where to begin: behind what was claimed lately, or else at the longest overdue."""
        now = self._clock.monotonic()
        if now >= self._since_until:
            self._since.clear()
            self._since_until = now + SLOW_SWEEP
        return {tenant: self._since.get((provider, tenant), at) for tenant, at in since.items()}

    def _listen(self, claims: Sequence[Claim]) -> None:
        """A claim names the moment it was made, by the store's clock."""
        if claims:
            self._clock.heard(claims[-1].claimed_at)

    def _remember(self, provider: str, claims: Sequence[Claim]) -> None:
        """Whatever is due before the last one claimed is claimed too; or somebody else had its row
        in hand, and a slow sweep finds it."""
        for claim in claims:
            if claim.due_at is not None:
                key = (provider, claim.key.tenant)
                self._since[key] = max(claim.due_at, self._since.get(key, claim.due_at))

    async def _ripe_or_not(self, unfinished: Unfinished, dead: frozenset[str]) -> bool:
        """One that cannot be judged must not keep the others from being retaken."""
        try:
            return await self._ripe(unfinished, dead)
        except TransientError:
            raise
        except Exception as error:
            broke("ripeness_broke", error, unfinished.grant)
            return False

    async def _ripe(self, unfinished: Unfinished, dead: frozenset[str]) -> bool:
        rules = self._rules(unfinished.key, unfinished.provider, unfinished.rotated_before)
        earlier = unfinished.earlier
        here = earlier.node == self._node
        gone = self._gone(unfinished, dead)
        alive = here and not gone and await self._offload(self._journals.is_alive, earlier.process)
        ripe = may_retake(
            rules,
            earlier,
            lease_until=unfinished.lease_until,
            gone=gone,
            alive=alive,
            access_expires_at=unfinished.expires_at,
            now=unfinished.seen_at,
        )
        if ripe and on_trust(rules, earlier, gone=gone, now=unfinished.seen_at):
            now = self._clock.monotonic()
            return self._trusted.may_take(earlier.attempt, now, lease=rules.lease)
        return ripe

    def _own(self, provider: str, now: float) -> Sequence[str]:
        """Our own name, if we too are to be looked through. While much is under way the store
        would else tell us of all that each second."""
        if now < self._own_until.get(provider, float("-inf")):
            return ()
        self._own_until[provider] = now + OWN_EVERY
        return (self._process,)

    def _gone(self, unfinished: Unfinished, dead: frozenset[str]) -> bool:
        """Its process is dead and replayed; or it is ours, and no such attempt lives in it."""
        earlier = unfinished.earlier
        return earlier.node == self._node and (
            earlier.process in dead or earlier.process == self._process
        )

    async def _take(
        self, provider: str, ripe: Sequence[Unfinished], dead: frozenset[str]
    ) -> list[Claimed]:
        lease = self._lease.get(provider, SHORTEST_LEASE)
        gone = {one.grant: self._gone(one, dead) for one in ripe}
        began = self._clock.monotonic()
        proven = {grant for grant, proved in gone.items() if proved}
        claims = await self._offload(self._claims.take_over, ripe, lease=lease, proven=proven)
        TAKEOVERS.labels(provider).inc(len(claims))
        self._listen(claims)
        return [
            Claimed(claim=claim, began=began, lease=lease, earlier_gone=gone[claim.grant])
            for claim in claims
        ]

    def _ready_or_off(self, one: Claimed) -> Prepared | Ending:
        """One that cannot be made ready must not keep the others from it."""
        try:
            return self._ready(one)
        except Exception as error:
            return self._endings.awhile(one.claim, broke("preparing_broke", error, one.claim.grant))

    def _ready(self, one: Claimed) -> Prepared | Ending:
        claim = one.claim
        if (trouble := self._resolver.trouble(claim.key)) is not None:
            return self._endings.untried(claim, trouble)
        connection = self._resolver.connection(claim.key)
        if connection is None:
            return self._endings.awhile(claim, "no_connection")
        if connection.stopped is not None or not connection.enabled:
            return self._endings.awhile(claim, "connection_stopped")
        try:
            provider = self._resolver.provider(claim.key, claim.provider)
            rules = self._resolver.rules(
                claim.key, claim.provider, rotated_before=claim.rotated_before
            )
        except ConfigurationError as error:
            return self._endings.awhile(claim, error.code)
        return Prepared(
            claim=claim,
            connection=connection,
            provider=provider,
            rules=rules,
            began=one.began,
            deadline=one.began + one.lease,
            earlier_gone=one.earlier_gone,
        )

    def _rules(self, key: GrantKey, entry: str, rotated_before: bool) -> Rules:
        try:
            return self._resolver.rules(key, entry, rotated_before=rotated_before)
        except Exception:  # the connection is gone, or cannot be understood: be strict
            return rules_for(Rotation.F, grace_seconds=0.0, rotated_before=True)

    async def _lengthen(self, short: Sequence[Prepared]) -> set[GrantId]:
        """Extend leases in one statement per length; the grants whose lease was lost."""
        lost: set[GrantId] = set()
        for lease in {one.rules.lease for one in short}:
            ones = [one for one in short if one.rules.lease == lease]
            began = self._clock.monotonic()
            held = await self._offload(
                self._claims.extend, [one.claim for one in ones], lease=lease
            )
            for one in ones:
                one.deadline = began + lease
                self._lease[one.claim.provider] = lease
            lost |= {one.claim.grant for one in ones} - held
        return lost
