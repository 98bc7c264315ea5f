"""Follows a tenant's events by the Events API, for those who can open no door to Auth0."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta

import structlog

from worker.auth0 import ManagementApi, events_api
from worker.auth0.events_api import CONNECTIONS, USERS, Message
from worker.domain.errors import ConfigurationError, PermanentError, TamperError, TransientError
from worker.domain.ports import Clock, Offload
from worker.store.following import FollowingRepository, Position

_log = structlog.get_logger("worker.sync")

Feed = Callable[[str, Sequence[bytes]], Awaitable[None]]
"""(tenant, CloudEvents in JSON): durable when it returns; known ids are dropped there."""

_HOLD = timedelta(seconds=120)  # longer than a silence, after which we connect anew
_EXTEND = timedelta(seconds=20)
_OVERLAP = timedelta(minutes=5)  # by timestamp; repeats are known by their ids
_RECENT = timedelta(hours=1)  # a time that is not too old to begin at, on any plan
_PAUSE = timedelta(seconds=2)  # between two connections
_LONGEST = timedelta(minutes=10)
_TOO_OLD = frozenset({events_api.EXPIRED, "invalid_cursor", "http_410"})


class EventFeed:
    """One process at a time follows a tenant; another takes over where it left off.

    The position moves only after the events before it are durable, so a crash repeats some and
    loses none.
    """

    def __init__(
        self,
        apis: Mapping[str, ManagementApi],
        following: FollowingRepository,
        *,
        feed: Feed,
        on_gap: Callable[[str], Awaitable[None]],
        holder: str,
        clock: Clock,
        offload: Offload,
    ) -> None:
        """`on_gap(tenant)`: events were lost, and only a reconcile finds what they told of.
        `holder`: unique per process."""
        self._apis = apis
        self._following = following
        self._feed = feed
        self._on_gap = on_gap
        self._holder = holder
        self._clock = clock
        self._offload = offload
        self._types: dict[str, tuple[str, ...]] = {}
        self._failures = 0

    async def run(self, tenant: str) -> int:
        """Follow for as long as no other process does; returns how many events came.

        Raises: TransientError (the store is away), ConfigurationError (a scope is missing, or the
        secret is wrong), PermanentError (a request that Auth0 finds wrong).
        """
        count = 0
        while (position := await self._held(tenant, _HOLD)) is not None:
            try:
                count += await self._connection(tenant, position)
                self._failures = 0
                wait = _PAUSE
            except TransientError as error:
                self._failures += 1
                wait = self._wait(error)
                _log.info("events_not_followed", tenant=tenant, code=error.code)
            except (ConfigurationError, TamperError):
                raise  # of the position it says nothing
            except PermanentError as error:
                wait = _PAUSE
                await self._refused(tenant, position, error)
            await self._held(tenant, wait + _HOLD)
            await self._clock.sleep(wait.total_seconds())
        return count

    async def release(self, tenant: str) -> None:
        """Let another process go on at once."""
        await self._offload(self._following.release, tenant, self._holder)

    async def _held(self, tenant: str, for_: timedelta) -> Position | None:
        now = self._clock.now()
        return await self._offload(
            self._following.hold, tenant, self._holder, now=now, until=now + for_
        )

    async def _connection(self, tenant: str, position: Position) -> int:
        """One connection, until Auth0 closes it. Raises: as `events_api.follow`."""
        position = await self._begun(tenant, position)
        since = position.at - _OVERLAP if position.at else None
        types = self._types.get(tenant, (*USERS, *CONNECTIONS))
        count, extended_at = 0, self._clock.now()
        pieces = events_api.follow(
            self._apis[tenant], types=types, offset=position.offset, since=since
        )
        async with aclosing(pieces):
            async for messages in pieces:
                count += await self._taken(tenant, messages)
                now = self._clock.now()
                if now - extended_at >= _EXTEND:
                    extended_at = now
                    if await self._held(tenant, _HOLD) is None:
                        break
        return count

    async def _begun(self, tenant: str, position: Position) -> Position:
        """Before the first offset comes, the time we began is what can be gone back to."""
        if position.offset is None and position.at is None:
            position = Position(offset=None, at=self._clock.now())
            await self._offload(self._following.put_position, tenant, self._holder, position)
        return position

    async def _taken(self, tenant: str, messages: Sequence[Message]) -> int:
        """Make them durable, then move on. Raises: PermanentError where Auth0 ended the stream."""
        if not messages:
            return 0
        events = [message.event for message in messages if message.event is not None]
        if events:
            await self._feed(tenant, events)
        offset = next((m.offset for m in reversed(messages) if m.offset and not m.error), None)
        if offset is not None:
            position = Position(offset=offset, at=self._clock.now())
            await self._offload(self._following.put_position, tenant, self._holder, position)
        if (ended := messages[-1].error) is not None:
            broken = PermanentError if ended in _TOO_OLD else TransientError
            raise broken(f"{tenant}: Events API: {ended}", code=ended)
        return len(events)

    async def _refused(self, tenant: str, position: Position, error: PermanentError) -> None:
        """An offset too old, or a type that this tenant does not know (400)."""
        if error.code not in _TOO_OLD:
            if tenant not in self._types:
                self._types[tenant] = USERS
                return
            now = self._clock.now()
            if position.offset is None and now - (position.at or now) < _RECENT:
                raise error  # nothing is left to be the reason
        _log.warning("events_lost", tenant=tenant, code=error.code)
        # by timestamp first; where that is too old as well, from now on
        since = position.at if position.offset is not None else None
        fresh = Position(offset=None, at=since)
        await self._offload(self._following.put_position, tenant, self._holder, fresh)
        await self._on_gap(tenant)

    def _wait(self, error: TransientError) -> timedelta:
        backoff = _PAUSE * float(2 ** min(self._failures, 9))
        return min(max(error.retry_after or timedelta(0), backoff), _LONGEST)
