"""A renewal somebody waits for: brought forward once, however many ask."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta

from worker.domain.errors import TransientError
from worker.domain.forward import Forward, Push
from worker.domain.grant import GrantId, GrantState
from worker.domain.held import HeldGrant
from worker.domain.ports import Clock, Hints, Offload
from worker.handout.ports import HeldGrants

STEP = 0.05  # seconds between looks at the store


class Forced:
    """One waiting line per grant and process; all who ask meanwhile join it."""

    def __init__(
        self,
        *,
        grants: HeldGrants,
        hints: Hints,
        clock: Clock,
        offload: Offload,
        patience: timedelta,
    ) -> None:
        self._grants = grants
        self._hints = hints
        self._clock = clock
        self._offload = offload
        self._patience = patience.total_seconds()
        self._lines: dict[GrantId, asyncio.Task[tuple[HeldGrant, datetime | None]]] = {}

    async def renewed(self, held: HeldGrant, *, actor: str) -> tuple[HeldGrant, datetime | None]:
        """The grant after the attempt, and when to ask again if nothing came of it.

        Raises: TransientError, the store is away.
        """
        line = self._lines.get(held.id)
        if line is None:
            line = asyncio.create_task(self._attempt(held, actor))
            self._lines[held.id] = line
            line.add_done_callback(lambda _: self._lines.pop(held.id, None))
        return await asyncio.shield(line)  # one caller hanging up does not end it for the others

    async def _attempt(self, held: HeldGrant, actor: str) -> tuple[HeldGrant, datetime | None]:
        forward: Forward = await self._offload(
            self._grants.bring_forward, held.id, self._clock.now(), actor=actor
        )
        if forward.push is Push.DUE:
            with contextlib.suppress(TransientError):  # a lost hint costs a tick (I2)
                await self._offload(self._hints.renew, held.provider)
            return await self._watch(held), None
        return await self._look(held), forward.retry_at

    async def _watch(self, held: HeldGrant) -> HeldGrant:
        """Look until a newer generation is there, the attempt has ended, or patience has."""
        until = self._clock.monotonic() + self._patience
        now = await self._look(held)
        while not _settled(held, now) and self._clock.monotonic() < until:
            await self._clock.sleep(STEP)
            now = await self._look(held)
        return now

    async def _look(self, held: HeldGrant) -> HeldGrant:
        return await self._offload(self._grants.by_id, held.id) or held


def _settled(before: HeldGrant, now: HeldGrant) -> bool:
    return (
        now.generation > before.generation
        or now.state is not GrantState.ACTIVE
        or now.failures > before.failures
        or not now.renewable
    )
