"""The way to each tenant's Management API, and all that is read over it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import msgspec

from worker.auth0 import Budget, Credentials, ManagementApi, plan_named
from worker.bootstrap.base import Base
from worker.bootstrap.following import EVERY_EVENTS, Round
from worker.domain.errors import WorkerError
from worker.domain.event import Source
from worker.domain.grant import GrantId
from worker.domain.held import Withheld
from worker.domain.ports import Notice
from worker.events import Intake
from worker.monitoring.logs import logger
from worker.revocation import UserErasure
from worker.settings import TenantSettings
from worker.store import outbox
from worker.store.comparing import Comparison
from worker.store.connections import ConnectionRepository
from worker.store.findings import FindingRepository
from worker.store.following import FollowingRepository
from worker.store.merging import MergeRepository
from worker.store.pulls import PullRepository
from worker.store.rounds import RoundRepository
from worker.store.tenants import TenantRepository
from worker.store.tombstones import TombstoneRepository
from worker.store.withholding import WithholdingRepository
from worker.sync import Departures, Diff, EventFeed, LogPoll, Puller, Reconcile, StreamWatch
from worker.vault import AesVault

_log = logger(__name__)

_ROUND = timedelta(hours=20)  # a reconcile that has begun keeps others from beginning
_SLICE = 120.0  # seconds of it between two checkpoints
_LEASE = timedelta(minutes=5)  # of the process that is at it; longer than a slice may take


class Reading:
    """Everything that reads Auth0, for one process; made on its event loop."""

    def __init__(
        self,
        base: Base,
        http: httpx.AsyncClient,
        *,
        vault: AesVault,
        connections: ConnectionRepository,
    ) -> None:
        self._base = base
        self._vault = vault
        self._tenants = TenantRepository(base.engine, vault)
        self._rounds = RoundRepository(base.engine)
        self._findings = FindingRepository(base.engine, outbox.add)
        self.apis = apis_of(base, http, self._tenants)
        self.puller = Puller(
            self.apis,
            pulls=PullRepository(base.engine),
            merges=MergeRepository(
                base.engine, vault, base.audit, actor=f"{base.role}:{base.node}"
            ),
            connections=connections,
            findings=self._findings,
            catalogue=base.catalogue,
            clock=base.clock,
            offload=base.offload,
            on_gone=self.forget,
            serves_blocked={
                name for name, told in base.settings.tenants.items() if told.blocked_users == "keep"
            },
        )
        self._departures = Departures(
            self.apis,
            findings=self._findings,
            pull=self.puller,
            bury=self.bury,
            withhold=self._withhold,
            offload=base.offload,
        )
        self._withholding = WithholdingRepository(base.engine, base.audit, outbox.add)
        self._erasure = UserErasure(
            tombstones=TombstoneRepository(base.engine, base.audit, outbox.add),
            clock=base.clock,
            offload=base.offload,
        )

    async def forget(self, tenant: str, user_id: str) -> None:
        """End the grants of a user whom Auth0 does not know, wherever they are not linked now."""
        await self._departures(tenant, user_id)

    async def poll_logs(self, intake: Intake) -> Mapping[str, int]:
        """Events whose webhooks were lost (I25), of every tenant that lets us read its log."""

        async def feed(tenant: str, records: Sequence[Mapping[str, Any]]) -> None:
            body = msgspec.json.encode(records)
            # as the log stream's own: what the stream brought already is a duplicate
            await intake.receive(tenant, Source.LOGS, body, offload=self._base.offload)

        poll = LogPoll(self.apis, self._tenants, feed=feed, offload=self._base.offload)
        counts: dict[str, int] = {}
        for tenant in self.apis:
            try:
                if "read:logs" in (await self.apis[tenant].granted_scopes()).split():
                    counts[tenant] = await poll.once(tenant)
            except WorkerError as error:  # one tenant's trouble is not another's
                _log.warning("log not polled", tenant=tenant, code=error.code)
        return counts

    def stream_watch(
        self, intake: Intake, tell: Callable[[Sequence[Notice]], None]
    ) -> Callable[[], Coroutine[Any, Any, Mapping[str, int]]]:
        """A look at the streams of every tenant: what they failed to deliver, which stand still."""

        watch = StreamWatch(
            self.apis,
            FollowingRepository(self._base.engine),
            feed=self._events_into(intake),
            tell=tell,
            clock=self._base.clock,
            offload=self._base.offload,
        )

        async def look() -> Mapping[str, int]:
            counts: dict[str, int] = {}
            for tenant in self.apis:
                try:
                    for name, count in (await watch.once(tenant)).items():
                        counts[name] = counts.get(name, 0) + count
                except WorkerError as error:  # one tenant's trouble is not another's
                    _log.warning("streams not looked at", tenant=tenant, code=error.code)
            return counts

        return look

    def event_rounds(
        self, intake: Intake, on_gap: Callable[[str], Coroutine[Any, Any, None]]
    ) -> Iterator[tuple[str, tuple[timedelta, Round]]]:
        """One endless round for each tenant whose events we read by the Events API."""
        base = self._base
        feed = EventFeed(
            self.apis,
            FollowingRepository(base.engine),
            feed=self._events_into(intake),
            on_gap=on_gap,
            holder=f"{base.node}:{os.getpid()}:{id(self)}",
            clock=base.clock,
            offload=base.offload,
        )
        for tenant, told in base.settings.tenants.items():
            if told.events_api:
                yield f"events.{tenant}", (EVERY_EVENTS, partial(self._follow, feed, tenant))

    async def _follow(self, feed: EventFeed, tenant: str) -> Mapping[str, int]:
        if "read:events" not in (await self.apis[tenant].granted_scopes()).split():
            return {}  # the doctor says so
        try:
            return {"events": await feed.run(tenant)}
        finally:  # stopped, or broken: another process may go on at once
            await asyncio.shield(feed.release(tenant))

    def _events_into(self, intake: Intake) -> Callable[..., Coroutine[Any, Any, None]]:
        """As the event stream's own: what comes through the door as well is a duplicate."""

        async def feed(tenant: str, events: Sequence[Mapping[str, Any]]) -> None:
            body = msgspec.json.encode(events)
            await intake.receive(tenant, Source.EVENTS, body, offload=self._base.offload)

        return feed

    async def begin_reconcile(self, tenant: str | None = None) -> Mapping[str, int]:
        """Begin the night's rounds; of `tenant`, whose events are lost, one anew and at once."""
        now, offload = self._base.clock.now(), self._base.offload
        begun = 0
        for name in [tenant] if tenant else self.apis:
            begin = partial(self._rounds.begin, name, now=now, every=_ROUND)
            begun += await offload(begin, anew=tenant is not None)
        return {"begun": begun}

    async def reconcile(self) -> Mapping[str, int]:
        """Go on with every round that nobody is at, all tenants beside each other."""
        rounds = await asyncio.gather(*map(self._reconciled, self.apis))
        counts: Counter[str] = Counter()
        for one in rounds:
            counts.update(one)
        return counts

    async def _reconciled(self, tenant: str) -> Mapping[str, int]:
        """One tenant's round, saved every few minutes; a killed process costs no more than that."""
        base, holder = self._base, f"{self._base.node}:{os.getpid()}"
        reconcile = Reconcile(
            self.apis[tenant], self.puller, self._findings, clock=base.clock, offload=base.offload
        )
        counts: Counter[str] = Counter()
        hold = partial(self._rounds.hold, tenant, holder)
        now = base.clock.now()
        try:
            after = await base.offload(hold, now=now, until=now + _LEASE)
            while after is not None:
                found = asdict(await reconcile.run(after=after, seconds=_SLICE))
                after, now = found.pop("next_user"), base.clock.now()
                counts.update(found)
                save = partial(self._rounds.save, tenant, holder, after=after, counts=found)
                if not await base.offload(save, now=now, until=now + _LEASE):
                    break  # begun anew meanwhile, or taken over
        except WorkerError as error:
            _log.warning("reconcile interrupted", tenant=tenant, code=error.code)
        if counts:
            _log.info("reconciled", tenant=tenant, **counts)
        return counts

    def diff(self, tenant: str) -> Diff:
        """Compares the tenant with what we hold, and changes nothing."""
        base = self._base
        return Diff(
            self.apis[tenant],
            self.puller,
            Comparison(base.engine, self._vault).compare,
            self._findings,
            clock=base.clock,
            offload=base.offload,
        )

    async def bury(
        self, tenant: str, user_id: str, *, actor: str = "worker:events"
    ) -> Sequence[GrantId]:
        """End every grant that points at the user; a worker revokes them at the providers."""
        buried = await self._erasure.erase(tenant, user_id, actor=actor)
        if buried:
            self._base.hints.task("upkeep.revocations")
        return buried

    async def _withhold(self, tenant: str, user_id: str) -> None:
        withheld = await self._base.offload(
            self._withholding.withhold,
            tenant,
            user_id,
            Withheld.USER_MISSING,
            actor="worker:events",
            now=self._base.clock.now(),
        )
        if withheld:
            _log.warning("user_missing", tenant=tenant, grants=len(withheld))
            self._base.hints.task("upkeep.outbox")


def apis_of(
    base: Base, http: httpx.AsyncClient, tenants: TenantRepository
) -> Mapping[str, ManagementApi]:
    """One per tenant, each under its own budget. Raises: ConfigurationError, unknown plan."""
    clock, offload = base.clock, base.offload
    return {
        name: ManagementApi(
            name,
            credentials_of(told),
            tenants=tenants,
            budget=Budget(
                name,
                plan_named(told.plan, requests_per_second=told.requests_per_second),
                tenants,
                clock=clock,
                offload=offload,
            ),
            http=http,
            clock=clock,
            offload=offload,
        )
        for name, told in base.settings.tenants.items()
    }


def credentials_of(tenant: TenantSettings) -> Credentials:
    return Credentials(
        domain=tenant.domain,
        client_id=tenant.client_id,
        client_secret=tenant.client_secret,
        private_key=tenant.private_key,
        base_url=tenant.base_url,
    )
