"""What a renewal teaches once its tokens are safe: when they end, and how the provider has changed.

Nothing in here can cost a grant anything: it runs after the commit, beside the next renewals, and
whatever fails is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from worker.domain.attempt import Brought
from worker.domain.errors import WorkerError
from worker.domain.exchange import Answered, ConnectionConfig, Rotation
from worker.domain.grant import Claim, ExpiryKind
from worker.domain.learned import Change
from worker.domain.ports import Clock, Offload, Provider, TokenEndpoint, Vault
from worker.domain.schedule import renewal_time, spread_of
from worker.monitoring.metrics import PROVIDER_CHANGES
from worker.renewal.ports import Learning
from worker.renewal.resolving import Resolver

AT_ONCE = 4  # questions under way; they must not crowd out renewals at the same host
MOST_WAITING = 400  # beyond that a question is left out: the next renewal asks again
_READ_TIMEOUT = 15.0
_log = structlog.get_logger(__name__)

Slot = Callable[[str], float | None]
"""Takes a place in a host's rate: seconds to wait for it; None: the host wants to be left alone."""


class Lessons:
    """One per engine. Never raises."""

    def __init__(
        self,
        *,
        endpoint: TokenEndpoint,
        vault: Vault,
        learning: Learning,
        resolver: Resolver,
        clock: Clock,
        offload: Offload,
        slot: Slot,
    ) -> None:
        self._endpoint = endpoint
        self._vault = vault
        self._learning = learning
        self._resolver = resolver
        self._clock = clock
        self._offload = offload
        self._slot = slot
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self.stopping = False

    def has_one(self, claim: Claim, brought: Brought) -> bool:
        """Whether there is anything to learn; a dictionary away, for every renewal asks."""
        settled = brought.expiry is not ExpiryKind.UNTOLD
        if settled and brought.rotated == claim.rotated_before and not brought.api_base:
            return False
        if self._waiting >= MOST_WAITING:
            return False
        try:
            provider = self._resolver.provider(claim.key, claim.provider)
        except KeyError:  # its connection was forgotten meanwhile; `learn` reads it again
            return True
        except WorkerError:
            return False
        if brought.api_base or (brought.expiry is ExpiryKind.UNTOLD and provider.introspects):
            return True
        return _change(provider, claim, brought) is not None

    async def learn(self, claim: Claim, brought: Brought) -> None:
        self._waiting += 1
        try:
            await self._resolver.prefetch([claim.key])
            connection = self._resolver.connection(claim.key)
            provider = self._resolver.provider(claim.key, claim.provider)
            if brought.api_base:
                await self._offload(self._learning.base_told, claim.grant, brought.api_base)
            await self._note_change(provider, claim, brought)
            if connection is not None and brought.expiry is ExpiryKind.UNTOLD:
                async with self._places:
                    await self._ask_for_end(connection, provider, claim, brought)
        except Exception as error:
            _log.info("nothing_learned", grant=str(claim.grant), error=type(error).__name__)
        finally:
            self._waiting -= 1

    async def _note_change(self, provider: Provider, claim: Claim, brought: Brought) -> None:
        change = _change(provider, claim, brought)
        if change is None:
            return
        news = await self._offload(
            self._learning.changed, claim.key, claim.provider, change, self._clock.now()
        )
        if news:
            PROVIDER_CHANGES.labels(claim.provider, change.value).inc()
            self._resolver.forget(claim.key.tenant, claim.key.connection)
            _log.warning(
                "provider_changed",
                provider=claim.provider,
                tenant=claim.key.tenant,
                connection=claim.key.connection,
                change=change.value,
            )

    async def _ask_for_end(
        self, connection: ConnectionConfig, provider: Provider, claim: Claim, brought: Brought
    ) -> None:
        """RFC 7662: the provider may tell of an access token what its answer left out."""
        if brought.access_token is None or not provider.introspects:
            return
        token = self._vault.open(
            brought.access_token,
            tenant=claim.key.tenant,
            grant=claim.grant,
            generation=brought.generation,
            kind="at",
            key=claim.tokens.access_key,
        )
        now = self._clock.now()
        request = provider.introspection(connection, access_token=token, now=now)
        if request is None or (wait := self._slot(request.host)) is None:
            return
        if wait > 0:
            await self._clock.sleep(wait)
        answer = await self._endpoint.exchange(
            request, gate=lambda: not self.stopping, read_timeout=_READ_TIMEOUT
        )
        if not isinstance(answer, Answered):
            return
        ends_at = provider.read_introspection(answer, now=self._clock.now())
        if ends_at is None:
            return
        due_at = renewal_time(
            issued_at=brought.issued_at,
            expiry=ExpiryKind.AT,
            expires_at=ends_at,
            lifetimes=provider.lifetimes,
            spread=spread_of(claim.grant),
            refresh_expires_at=brought.refresh_expires_at,
        )
        await self._offload(
            self._learning.end_told,
            claim.grant,
            generation=brought.generation,
            expires_at=ends_at,
            due_at=due_at,
        )


def _change(provider: Provider, claim: Claim, brought: Brought) -> Change | None:
    """How this answer contradicts the entry; what comes of it is strictness, never laxity."""
    if provider.spends != "rt" or brought.echoed:
        return None
    if provider.rotation is Rotation.N and brought.rotated and not claim.rotated_before:
        return Change.ROTATES
    if provider.always_rotates and claim.rotated_before and not brought.rotated:
        return Change.KEEPS
    return None
