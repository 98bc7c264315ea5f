"""Pull: read one user, or one connection, and merge what was read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from worker.auth0 import Identity, ManagementApi, Priority, User
from worker.domain.errors import ConfigurationError, NotFoundError, TransientError, WorkerError
from worker.domain.event import Event
from worker.domain.grant import GrantKey
from worker.domain.held import Withheld
from worker.domain.merge import Arrival, Why
from worker.domain.ports import Catalogue, Clock, Offload
from worker.monitoring.metrics import PULLS
from worker.store.findings import FindingRepository
from worker.store.merging import Merged, MergeRepository
from worker.store.pulls import Begun, PullRepository, user_subject
from worker.sync.arrivals import of_identity
from worker.sync.coalescing import Coalesced
from worker.sync.connection_reading import OVERTAKEN_TRIES, ConnectionReader, ConnectionShelf
from worker.sync.departures import of_account
from worker.sync.second_look import LOOK_AGAIN, look_again

_log = structlog.get_logger("worker.sync")

CONFIRM_GONE = timedelta(seconds=20)  # between two 404s that count as two

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
        self._findings = findings
        self._catalogue = catalogue
        self._clock = clock
        self._offload = offload
        self._on_gone = on_gone
        self._confirm_gone = confirm_gone
        self._serves_blocked = frozenset(serves_blocked)
        self._one_pull: Coalesced[Merged] = Coalesced()
        self._logins: dict[tuple[str, str], list[Event]] = {}
        self._connections = ConnectionReader(
            self._api,
            pulls=pulls,
            merges=merges,
            connections=connections,
            findings=findings,
            catalogue=catalogue,
            clock=clock,
            offload=offload,
            age=connection_age,
            on_gone=on_connection_gone,
        )

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
        merged = await self.read(tenant, user_id, priority=priority)
        look_again(merged, login, self._clock.now())

    async def read(
        self, tenant: str, user_id: str, *, priority: Priority = Priority.LIVE
    ) -> Merged:
        """As `user`, telling what changed; wishes that come together share one read."""
        return await self._one_pull.run(
            (tenant, user_id), lambda: self._counted(tenant, self._user(tenant, user_id, priority))
        )

    async def account(self, key: GrantKey, user_id: str) -> None:
        """Read whoever has that account now: `user_id`, or to whom it was linked or moved (M9).

        Returns: it was seen; or nobody has it, as far as Auth0 can tell. Raises: TransientError,
        also while the search index is behind; ConfigurationError, PermanentError.
        """
        moved_to: Sequence[str] = ()
        try:
            merged = await self.read(key.tenant, user_id)
            look_again(merged, None, self._clock.now())
            if merged.saw(key):
                return
            moved_to = merged.detached
        except NotFoundError:
            _log.info("account_looked_for", tenant=key.tenant)
        for owner in dict.fromkeys([*moved_to, *await self._owners(key, but=user_id)]):
            with suppress(NotFoundError):
                merged = await self.read(key.tenant, owner)
                look_again(merged, None, self._clock.now())
                if merged.saw(key):
                    return

    async def connection(
        self, tenant: str, name: str, *, priority: Priority = Priority.LIVE
    ) -> None:
        """Read the connection anew: its client, its options, its administrator's tokens.

        `name` may be a `con_…` id. Raises: NotFoundError (deleted), TransientError,
        ConfigurationError.
        """
        await self._counted(tenant, self._connections.read(tenant, name, priority))

    async def _user(
        self, tenant: str, user_id: str, priority: Priority, *, follow: bool = True
    ) -> Merged:
        logins = self._logins.pop((tenant, user_id), [])
        for _ in range(OVERTAKEN_TRIES):
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
            if not merged.was_overtaken:
                await self._note_vanished(tenant, merged)
                if follow:
                    await self._follow(tenant, merged, priority)
                return merged
        raise TransientError(
            f"{tenant}: pulls of one user keep overtaking each other",
            code="overtaken",
            retry_after=LOOK_AGAIN,
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
        config = await self._connections.of(tenant, identity) if identity.holds_tokens else None
        return of_identity(
            tenant,
            user,
            identity,
            connection=config,
            catalogue=self._catalogue,
            logins=logins,
            now=self._clock.now(),
        )

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

    async def _owners(self, key: GrantKey, *, but: str) -> Sequence[str]:
        """Who has the account by the search. Raises: TransientError, it lists him who had it."""
        hits = await self._api(key.tenant).search(
            of_account(key.identity_user_id), accounts=True, priority=Priority.LIVE
        )
        there = [h.user_id for h in hits if key.connection in {name for _, name in h.accounts}]
        if but in there:
            raise TransientError(f"{key.tenant}: the search lags", code="search_lags")
        return there

    async def _missed(self, begun: Begun, user_id: str) -> None:
        """Count the 404; the second one, some time after the first, says that the user is gone."""
        too_soon = begun.last_at is not None and begun.at - begun.last_at < self._confirm_gone
        if begun.missing and too_soon:
            return
        missing = await self._offload(self._pulls.missed, begun)
        if missing >= 2 and self._on_gone is not None:
            await self._on_gone(begun.tenant, user_id)

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
