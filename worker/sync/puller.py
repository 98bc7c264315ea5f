"""Pull: read one user, or one connection, and merge what was read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from worker.auth0 import Connection, Identity, ManagementApi, Priority, User
from worker.domain.errors import ConfigurationError, NotFoundError, TransientError, WorkerError
from worker.domain.event import Event, Source
from worker.domain.exchange import ConnectionConfig
from worker.domain.held import Withheld
from worker.domain.merge import SECOND_LOOK, Arrival, Kind, Why
from worker.domain.ports import Catalogue, Clock, Offload
from worker.monitoring.metrics import PULLS
from worker.store.connections import CLIENT_LOST, DEVELOPER_KEYS
from worker.store.findings import FindingRepository
from worker.store.merge_transaction import MergedGrant
from worker.store.merging import Merged, MergeRepository
from worker.store.pulls import Begun, PullRepository, connection_subject, user_subject
from worker.sync.arrivals import admin_tokens, of_admin, of_identity
from worker.sync.coalescing import Coalesced
from worker.sync.options import config_of
from worker.sync.problems import CONSENTED, LASTING, problems_of

_log = structlog.get_logger("worker.sync")

# a refresh token never seen before: somebody has consented
_CONSENT = frozenset({Kind.CREATE, Kind.ADOPT, Kind.PROMOTE, Kind.KEEP_CANDIDATE})
_OVERTAKEN_TRIES = 3
_LOOKS = (timedelta(seconds=2), timedelta(seconds=5), timedelta(seconds=15))
_LOOK_AGAIN = timedelta(seconds=5)
_FAR_AHEAD = timedelta(hours=1)  # no clock of Auth0's is that much faster than ours
_NOT_ASKED_FOR = timedelta(minutes=5)  # a connection that could not be read just now
CONFIRM_GONE = timedelta(seconds=20)  # between two 404s that count as two


class ConnectionShelf(Protocol):
    """Connections as remembered; the store's repository."""

    def get(self, tenant: str, name: str) -> ConnectionConfig | None: ...

    def get_by_id(self, tenant: str, connection_id: str) -> ConnectionConfig | None: ...

    def put(self, config: ConnectionConfig, *, options_seen: bool) -> bool: ...

    def mark_deleted(self, tenant: str, name: str, now: datetime) -> None: ...


Gone = Callable[[str, str], Awaitable[None]]


class Puller:
    """Meets `Pull`. One per process, on its event loop.

    Args:
        apis: by tenant.
        connection_age: how old a remembered connection may be; a connection is never fetched per
            user, because plans allow as few as fifty such reads a minute.
        on_gone: (tenant, user id), told when Auth0 has twice not known the user; see `Departures`.
        on_connection_gone: (tenant), told once of each; its users are gone with it.
        serves_blocked: tenants whose blocked users' tokens are handed out all the same.
    """

    def __init__(
        self,
        apis: Mapping[str, ManagementApi],
        *,
        pulls: PullRepository,
        merges: MergeRepository,
        connections: ConnectionShelf,
        findings: FindingRepository,
        catalogue: Catalogue,
        clock: Clock,
        offload: Offload,
        connection_age: timedelta = timedelta(hours=1),
        on_gone: Gone | None = None,
        on_connection_gone: Callable[[str], Awaitable[None]] | None = None,
        confirm_gone: timedelta = CONFIRM_GONE,
        serves_blocked: Collection[str] = (),
    ) -> None:
        self._apis = apis
        self._pulls = pulls
        self._merges = merges
        self._connections = connections
        self._findings = findings
        self._catalogue = catalogue
        self._clock = clock
        self._offload = offload
        self._connection_age = connection_age
        self._on_gone = on_gone
        self._on_connection_gone = on_connection_gone
        self._confirm_gone = confirm_gone
        self._serves_blocked = frozenset(serves_blocked)
        self._one_pull: Coalesced[Merged] = Coalesced()
        self._one_read: Coalesced[ConnectionConfig | None] = Coalesced()
        self._logins: dict[tuple[str, str], list[Event]] = {}
        self._unreadable: dict[tuple[str, str], datetime] = {}  # connections, since when

    async def user(
        self,
        tenant: str,
        user_id: str,
        *,
        login: Event | None = None,
        priority: Priority = Priority.LIVE,
    ) -> None:
        """Read the user and merge every identity. See `Pull.user` for `login` and what it raises.

        Raises TransientError too when the merge asks for another look: an exchange is under way,
        or a refresh token has changed and no login explains it yet.
        """
        if login is not None:
            self._logins.setdefault((tenant, user_id), []).append(login)
        self._look_again(await self.read(tenant, user_id, priority=priority), login)

    async def read(
        self, tenant: str, user_id: str, *, priority: Priority = Priority.LIVE
    ) -> Merged:
        """As `user`, telling what changed; wishes that come together share one read."""
        return await self._one_pull.run(
            (tenant, user_id), lambda: self._counted(tenant, self._user(tenant, user_id, priority))
        )

    async def connection(
        self, tenant: str, name: str, *, priority: Priority = Priority.LIVE
    ) -> None:
        """Read the connection anew: its client, its options, its administrator's tokens.

        `name` may be a `con_…` id. Raises: NotFoundError (deleted), TransientError,
        ConfigurationError.
        """
        await self._counted(tenant, self._connection(tenant, name, priority))

    async def _user(
        self, tenant: str, user_id: str, priority: Priority, *, follow: bool = True
    ) -> Merged:
        logins = self._logins.pop((tenant, user_id), [])
        for _ in range(_OVERTAKEN_TRIES):
            begun = await self._offload(
                self._pulls.begin, tenant, user_subject(user_id), now=self._clock.now()
            )
            try:
                user = await self._api(tenant).user(user_id, priority=priority)
            except NotFoundError:
                await self._missed(begun, user_id)
                raise
            arrivals = await self.arrivals(tenant, user, logins)
            stopped = user.blocked and tenant not in self._serves_blocked
            merged = await self._offload(
                self._merges.merge,
                begun,
                arrivals,
                user_id=user_id,
                now=self._clock.now(),
                withheld=Withheld.USER_BLOCKED if stopped else None,
            )
            if not _overtaken(merged):
                await self._note_vanished(tenant, merged)
                if follow:
                    await self._follow(tenant, merged, priority)
                return merged
        raise TransientError(
            f"{tenant}: pulls of one user keep overtaking each other",
            code="overtaken",
            retry_after=_LOOK_AGAIN,
        )

    async def arrivals(
        self, tenant: str, user: User, logins: Sequence[Event] = ()
    ) -> Sequence[Arrival]:
        """What was read of a user, ready to be merged, or to be compared."""
        read = [await self._arrivals(tenant, user, one, logins) for one in user.identities]
        return [arrival for arrivals in read for arrival in arrivals]

    async def _arrivals(
        self, tenant: str, user: User, identity: Identity, logins: Sequence[Event]
    ) -> Sequence[Arrival]:
        config = await self._config(tenant, identity) if identity.holds_tokens else None
        return of_identity(
            tenant,
            user,
            identity,
            connection=config,
            catalogue=self._catalogue,
            logins=logins,
            now=self._clock.now(),
        )

    async def _config(self, tenant: str, identity: Identity) -> ConnectionConfig:
        """The connection as remembered, read anew when old; a stub where Auth0 knows none.

        Never asked for per user, neither what is gone nor what Auth0 does not show.
        """
        name, now = identity.connection, self._clock.now()
        known = await self._offload(self._connections.get, tenant, name)
        if known is not None and now - known.fetched_at < self._connection_age:
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

    async def _read_connection(
        self, tenant: str, name: str, priority: Priority
    ) -> ConnectionConfig | None:
        await self._connection(tenant, name, priority)
        return await self._offload(self._connections.get, tenant, name)

    async def _connection(self, tenant: str, name_or_id: str, priority: Priority) -> Merged:
        before = await self._remembered(tenant, name_or_id)
        name = before.name if before else name_or_id
        for _ in range(_OVERTAKEN_TRIES):
            begun = await self._offload(
                self._pulls.begin, tenant, connection_subject(name), now=self._clock.now()
            )
            try:
                found = await self._fetched(tenant, name, before, priority)
            except NotFoundError:
                await self._offload(self._connections.mark_deleted, tenant, name, self._clock.now())
                if before is not None and self._on_connection_gone is not None:
                    await self._on_connection_gone(tenant)
                raise
            merged = await self._merged_connection(tenant, begun, found, before)
            if not _overtaken(merged):
                return merged
        raise TransientError(f"{tenant}: pulls of {name} keep overtaking each other")

    async def _remembered(self, tenant: str, name_or_id: str) -> ConnectionConfig | None:
        known = await self._offload(self._connections.get, tenant, name_or_id)
        return known or await self._offload(self._connections.get_by_id, tenant, name_or_id)

    async def _fetched(
        self, tenant: str, name: str, before: ConnectionConfig | None, priority: Priority
    ) -> Connection:
        api = self._api(tenant)
        if before is not None and before.id:
            return await api.connection(before.id, priority=priority)
        if name.startswith("con_"):
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

    async def _note_vanished(self, tenant: str, merged: Merged) -> None:
        for grant in merged.grants:
            if grant.had_tokens and grant.decision.why is Why.NO_TOKENS:
                name, now = grant.key.connection, self._clock.now()
                await self._offload(self._findings.add, tenant, name, "tokens_vanished", now=now)

    async def _follow(self, tenant: str, merged: Merged, priority: Priority) -> None:
        """Unlinking made a user of each identity that left; he may have tokens of his own."""
        for owner in merged.detached:
            try:
                await self._user(tenant, owner, priority, follow=False)
            except WorkerError as error:
                # linked to another user, whose own event brings it; or found by the reconcile
                _log.info("detached_identity_not_read", tenant=tenant, code=error.code)

    async def _missed(self, begun: Begun, user_id: str) -> None:
        """Count the 404; the second one, some time after the first, says that the user is gone."""
        too_soon = begun.last_at is not None and begun.at - begun.last_at < self._confirm_gone
        if begun.missing and too_soon:
            return
        missing = await self._offload(self._pulls.missed, begun)
        if missing >= 2 and self._on_gone is not None:
            await self._on_gone(begun.tenant, user_id)

    def _look_again(self, merged: Merged, login: Event | None) -> None:
        for grant in merged.grants:
            if grant.decision.kind is Kind.LOOK_AGAIN:
                raise TransientError(
                    f"{grant.key.tenant}: {grant.decision.why}",
                    code=str(grant.decision.why),
                    retry_after=_LOOK_AGAIN,
                )
            if grant.decision.why is Why.UNEXPLAINED:
                raise TransientError(
                    f"{grant.key.tenant}: a refresh token changed and nobody logged in",
                    code="unexplained",
                    retry_after=SECOND_LOOK,
                )
        if login is not None and (wait := self._not_visible_yet(merged, login)):
            raise TransientError(
                f"{login.tenant}: that login's tokens are not readable yet",
                code="login_not_visible",
                retry_after=wait,
            )

    def _not_visible_yet(self, merged: Merged, login: Event) -> timedelta | None:
        """When to look again for the tokens of `login`; None: they are in, or we give up.

        Actions run before the login's tokens can be read; log events come after. A login that
        brought nothing new (or nothing at all) is believed after the last look, and one that is
        told of the far future at once: it would never come to its last look.
        """
        if login.occurred_at is None:
            return None
        age = self._clock.now() - login.occurred_at
        if age < -_FAR_AHEAD:
            return None
        wait = next((look for look in _LOOKS if age < _elapsed(look)), None)
        mine = [grant for grant in merged.grants if _of(login, grant)]
        if wait is None or any(_is_in(grant, login) for grant in mine):
            return None
        silent = all(grant.decision.why is Why.NO_TOKENS for grant in mine)
        if silent and login.source is not Source.ACTIONS:
            return None  # databases, SAML: most logins bring no tokens, and never will
        return wait

    def _api(self, tenant: str) -> ManagementApi:
        if api := self._apis.get(tenant):
            return api
        raise ConfigurationError(f"no tenant {tenant!r} in evergrant.toml", code="no_tenant")

    async def _counted(self, tenant: str, work: Awaitable[Merged]) -> Merged:
        try:
            merged = await work
        except WorkerError as error:
            PULLS.labels(tenant, error.code).inc()
            raise
        PULLS.labels(tenant, "merged").inc()
        return merged


def _overtaken(merged: Merged) -> bool:
    return merged.overtaken or any(g.decision.why is Why.OVERTAKEN for g in merged.grants)


def _of(login: Event, grant: MergedGrant) -> bool:
    identity = login.identity_user_id
    return grant.key.connection == login.connection and identity in (
        None,
        grant.key.identity_user_id,
    )


def _is_in(grant: MergedGrant, login: Event) -> bool:
    """The copy was news, or a pull before this one has brought the login's tokens."""
    if grant.decision.why not in (Why.STALE, Why.NO_TOKENS):
        return True
    began, told = grant.logged_in_at, login.occurred_at
    return began is not None and told is not None and began >= told - timedelta(seconds=60)


def _elapsed(look: timedelta) -> timedelta:
    """The age of a login at which that look is due: the looks add up."""
    return sum(_LOOKS[: _LOOKS.index(look) + 1], timedelta(0))


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
