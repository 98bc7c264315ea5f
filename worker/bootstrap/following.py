"""What finds lost events (I25), run by the workers among themselves.

Neither scheduler nor broker is needed: whichever worker looks first when a period is over does
the round, and the store keeps the others from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from worker.domain.errors import WorkerError
from worker.domain.ports import Clock, Offload
from worker.monitoring.logs import logger

_log = logger(__name__)

Round = Callable[[], Awaitable[Mapping[str, int]]]
Take = Callable[[str, datetime, timedelta], bool]  # see `HintRepository.take`

EVERY: Mapping[str, timedelta] = {
    "poll_logs": timedelta(seconds=60),
    # as Auth0 advises: https://auth0.com/docs/customize/events/events-best-practices
    "watch_streams": timedelta(minutes=5),
}


class Following:
    """Begins each round when its period is over, beside whatever else the process does."""

    def __init__(
        self, rounds: Mapping[str, Round], *, take: Take, clock: Clock, offload: Offload
    ) -> None:
        self._rounds = rounds
        self._take = take
        self._clock = clock
        self._offload = offload
        self._running: dict[str, asyncio.Future[None]] = {}

    async def begin(self) -> None:
        """Begin what nobody has begun within its period; cheap. Raises: TransientError."""
        for name in self._rounds:
            running = self._running.get(name)
            if running is not None and not running.done():
                continue
            now = self._clock.now()
            if await self._offload(self._take, f"follow.{name}", now, EVERY[name]):
                self._running[name] = asyncio.ensure_future(self._round(name))

    def stop(self) -> None:
        for running in self._running.values():
            running.cancel()

    async def _round(self, name: str) -> None:
        try:
            counts = await self._rounds[name]()
        except WorkerError as error:
            _log.warning("not followed", round=name, code=error.code)
        except Exception:  # whatever it is, the next period tries again
            _log.exception("following failed", round=name)
        else:
            if any(counts.values()):
                _log.info("followed", round=name, **counts)
