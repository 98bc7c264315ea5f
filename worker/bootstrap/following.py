"""What finds lost events (I25), run by the workers among themselves.

Neither scheduler nor broker is needed: whichever worker looks first when a period is over does
the round, and the store keeps the others from it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from worker.domain.errors import WorkerError
from worker.domain.ports import Clock, Offload
from worker.monitoring.logs import logger

_log = logger(__name__)

Round = Callable[[], Awaitable[Mapping[str, int]]]
Rounds = Mapping[str, tuple[timedelta, Round]]  # name → how often, what
Take = Callable[[str, datetime, timedelta], bool]  # see `HintRepository.take`

EVERY_LOG = timedelta(seconds=60)
# as Auth0 advises: https://auth0.com/docs/customize/events/events-best-practices
EVERY_STREAM = timedelta(minutes=5)
EVERY_ROUND = timedelta(seconds=60)  # whether a reconcile was begun, or left by its process
EVERY_EVENTS = timedelta(seconds=15)  # whether somebody still follows them; the round is endless


class Following:
    """Begins each round when its period is over, beside whatever else the process does."""

    def __init__(self, rounds: Rounds, *, take: Take, clock: Clock, offload: Offload) -> None:
        self._rounds = rounds
        self._take = take
        self._clock = clock
        self._offload = offload
        self._running: dict[str, asyncio.Future[None]] = {}
        self._asked: dict[str, float] = {}

    async def begin(self) -> None:
        """Begin what nobody has begun within its period; cheap. Raises: TransientError."""
        for name, (period, round_) in self._rounds.items():
            running = self._running.get(name)
            if running is not None and not running.done():
                continue
            moment = self._clock.monotonic()
            if moment - self._asked.get(name, -math.inf) < period.total_seconds() / 4:
                continue  # with many tenants, asking at every tick would be most of our reads
            self._asked[name] = moment
            now = self._clock.now()
            if await self._offload(self._take, f"follow.{name}", now, period):
                self._running[name] = asyncio.ensure_future(self._round(name, round_))

    def stop(self) -> None:
        for running in self._running.values():
            running.cancel()

    async def _round(self, name: str, round_: Round) -> None:
        try:
            counts = await round_()
        except WorkerError as error:
            _log.warning("not followed", round=name, code=error.code)
        except Exception:  # whatever it is, the next period tries again
            _log.exception("following failed", round=name)
        else:
            if any(counts.values()):
                _log.info("followed", round=name, **counts)
