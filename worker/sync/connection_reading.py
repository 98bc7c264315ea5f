"""Connections as Auth0 has them: remembered, read anew when old, and merged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from worker.auth0 import Connection, Identity, ManagementApi, Priority
from worker.domain.errors import NotFoundError, TransientError, WorkerError
from worker.domain.exchange import ConnectionConfig
from worker.domain.merge import Kind
from worker.domain.ports import Catalogue, Clock, Offload
from worker.store.connections import CLIENT_LOST, DEVELOPER_KEYS
from worker.store.findings import FindingRepository
from worker.store.merging import Merged, MergeRepository
from worker.store.pulls import Begun, PullRepository, connection_subject
from worker.sync.arrivals import admin_tokens, of_admin
from worker.sync.coalescing import Coalesced
from worker.sync.options import config_of
from worker.sync.problems import CONSENTED, LASTING, problems_of

_log = structlog.get_logger("worker.sync")

# a refresh token never seen before: somebody has consented
_CONSENT = frozenset({Kind.CREATE, Kind.ADOPT, Kind.PROMOTE, Kind.KEEP_CANDIDATE})
OVERTAKEN_TRIES = 3
_NOT_ASKED_FOR = timedelta(minutes=5)  # a connection that could not be read just now


class ConnectionShelf(Protocol):
    """Connections as remembered; the store's repository."""

    def get(self, tenant: str, name: str) -> ConnectionConfig | None: ...

    def get_by_id(self, tenant: str, connection_id: str) -> ConnectionConfig | None: ...

    def put(self, config: ConnectionConfig, *, options_seen: bool) -> bool: ...

    def mark_deleted(self, tenant: str, name: str, now: datetime) -> None: ...


class ConnectionReader:
    """Reads connections, each as seldom as may be: plans allow as few as fifty such reads a minute.

    Args:
        api: of a tenant.
        age: how old a remembered connection may be.
        on_gone: (tenant), told once of each connection that is gone; its users are gone with it.
    """

    def __init__(
        self,
        api: Callable[[str], ManagementApi],
        *,
        pulls: PullRepository,
        merges: MergeRepository,
        connections: ConnectionShelf,
        findings: FindingRepository,
        catalogue: Catalogue,
        clock: Clock,
        offload: Offload,
        age: timedelta,
        on_gone: Callable[[str], Awaitable[None]] | None,
    ) -> None:
        self._api = api
        self._pulls = pulls
        self._merges = merges
        self._connections = connections
        self._findings = findings
        self._catalogue = catalogue
        self._clock = clock
        self._offload = offload
        self._age = age
        self._on_gone = on_gone
        self._one_read: Coalesced[ConnectionConfig | None] = Coalesced()
        self._unreadable: dict[tuple[str, str], datetime] = {}  # since when

    async def of(self, tenant: str, identity: Identity) -> ConnectionConfig:
        """The connection as remembered, read anew when old; a stub where Auth0 knows none.

        Never asked for per user, neither what is gone nor what Auth0 does not show.
        """
        name, now = identity.connection, self._clock.now()
        known = await self._offload(self._connections.get, tenant, name)
        if known is not None and now - known.fetched_at < self._age:
            return known
        since = self._unreadable.get((tenant, name))
        if since is not None and now - since < _NOT_ASKED_FOR:
            return known or _stub(tenant, identity, now)
        try:
            read = await self._one_read.run(
                (tenant, name), lambda: self._read_connection(tenant, name, Priority.LIVE)
            )
        except WorkerError as error:
            if known is None and not isinstance(error, NotFoundError):
                raise
            self._unreadable[tenant, name] = now
            read = None  # old is better than none, and the user's tokens cannot wait
        return read or known or _stub(tenant, identity, now)

    async def read(self, tenant: str, name_or_id: str, priority: Priority) -> Merged:
        """Read it anew: its client, its options, its administrator's tokens.

        Raises: NotFoundError (deleted), TransientError, ConfigurationError.
        """
        before = await self._remembered(tenant, name_or_id)
        name = before.name if before else name_or_id
        for _ in range(OVERTAKEN_TRIES):
            begun = await self._offload(
                self._pulls.begin, tenant, connection_subject(name), now=self._clock.now()
            )
            try:
                found = await self._fetched(tenant, name, before, priority)
            except NotFoundError:
                await self._offload(self._connections.mark_deleted, tenant, name, self._clock.now())
                if before is not None and self._on_gone is not None:
                    await self._on_gone(tenant)
                raise
            merged = await self._merged_connection(tenant, begun, found, before)
            if not merged.was_overtaken:
                if before is not None and before.id != found.id and before.id and self._on_gone:
                    await self._on_gone(tenant)
                return merged
        raise TransientError(f"{tenant}: pulls of {name} keep overtaking each other")

    async def _read_connection(
        self, tenant: str, name: str, priority: Priority
    ) -> ConnectionConfig | None:
        await self.read(tenant, name, priority)
        return await self._offload(self._connections.get, tenant, name)

    async def _remembered(self, tenant: str, name_or_id: str) -> ConnectionConfig | None:
        known = await self._offload(self._connections.get, tenant, name_or_id)
        return known or await self._offload(self._connections.get_by_id, tenant, name_or_id)

    async def _fetched(
        self, tenant: str, name: str, before: ConnectionConfig | None, priority: Priority
    ) -> Connection:
        """A 404 is read back by name: nothing is called gone for one answer (I22), and another
        connection may have been made under that name."""
        api = self._api(tenant)
        if before is not None and before.id:
            with suppress(NotFoundError):
                return await api.connection(before.id, priority=priority)
        elif name.startswith("con_"):
            return await api.connection(name, priority=priority)
        return await api.connection_by_name(name, priority=priority)

    async def _merged_connection(
        self, tenant: str, begun: Begun, found: Connection, before: ConnectionConfig | None
    ) -> Merged:
        now = self._clock.now()
        self._unreadable.pop((tenant, found.name), None)
        config = config_of(tenant, found, now=now)
        seen = found.options is not None
        lost = await self._offload(self._connections.put, config, options_seen=seen)
        await self._note_problems(tenant, found, before, client_lost=lost)
        laid_over = await self._offload(self._connections.get, tenant, found.name) or config
        if found.options is None:
            return Merged()  # hidden, not gone: M4
        arrival = of_admin(found, laid_over, catalogue=self._catalogue, now=now)
        merged = await self._offload(self._merges.merge, begun, [arrival], user_id=None, now=now)
        if any(grant.decision.kind in _CONSENT for grant in merged.grants):
            await self._note_consent(tenant, found.name)
        return merged

    async def _note_consent(self, tenant: str, name: str) -> None:
        consented, now = self._findings.consented, self._clock.now()
        for code in sorted(await self._offload(consented, tenant, name, CONSENTED, now=now)):
            _log.info("connection_problem_over", tenant=tenant, connection=name, code=code)

    async def _note_problems(
        self,
        tenant: str,
        found: Connection,
        before: ConnectionConfig | None,
        *,
        client_lost: bool,
    ) -> None:
        had_admin = await self._offload(self._findings.has_admin, tenant, found.name)
        has_admin = any(admin_tokens(found.options))
        codes = problems_of(found, before, had_admin=had_admin, has_admin=has_admin)
        if client_lost and DEVELOPER_KEYS not in codes:
            codes |= {CLIENT_LOST}
        now = self._clock.now()
        new = await self._offload(
            self._findings.put, tenant, found.name, codes, lasting=LASTING, now=now
        )
        for code in sorted(new):
            _log.warning("connection_problem", tenant=tenant, connection=found.name, code=code)


def _stub(tenant: str, identity: Identity, now: datetime) -> ConnectionConfig:
    """A connection Auth0 does not know (any more): its tokens are kept and served to their end."""
    return ConnectionConfig(
        tenant=tenant,
        name=identity.connection,
        id=None,
        strategy=identity.provider,
        client_id=None,
        client_secret=None,
        options={},
        headers={},
        overrides={},
        fetched_at=now,
        approved_host=None,
        stopped=None,
    )
