"""How many operators' actions run at once, so that the built-in ones always find room.

Few users of a tenant are looked at at a time (`worker.events.ports.Limits`): were all of them held
up by an action that hangs, nobody's tokens would be read for as long as a backlog of it lasts.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from worker.actions.api import PostponedError

_OF_AN_ACTION = 3  # at once, for each tenant
_OF_A_TENANT = 6
_QUICK = 1.0  # seconds: a turn that is over by then is worth waiting for
_LATER = timedelta(seconds=10)

Turn = tuple[str, str]  # (tenant, action)


class Turns:
    """One for a process."""

    def __init__(self) -> None:
        self._began: dict[Turn, list[float]] = defaultdict(list)
        self._ended = asyncio.Event()

    @asynccontextmanager
    async def taken(self, tenant: str, action: str) -> AsyncIterator[None]:
        """Wait while those before are quick. Raises: PostponedError where they are not."""
        turn = (tenant, action)
        while (before := self._before(turn)) is not None:
            left = before + _QUICK - _now()
            if left <= 0 or not await self._ends_within(left):
                raise PostponedError("others of its kind are still at it", _LATER)
        began = _now()
        self._began[turn].append(began)
        try:
            yield
        finally:
            self._began[turn].remove(began)
            if not self._began[turn]:
                del self._began[turn]
            self._ended.set()
            self._ended = asyncio.Event()

    def _before(self, turn: Turn) -> float | None:
        """When the longest of those began who stand in the way; None: it is free."""
        mine = self._began.get(turn, [])
        tenants = (times for (whose, _), times in self._began.items() if whose == turn[0])
        all_ = [began for times in tenants for began in times]
        if len(mine) >= _OF_AN_ACTION:
            return min(mine)
        return min(all_) if len(all_) >= _OF_A_TENANT else None

    async def _ends_within(self, seconds: float) -> bool:
        """Whether somebody's turn ended."""
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            return False
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()
