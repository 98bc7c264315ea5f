"""Users whom Auth0 no longer knows: withheld, looked at again, and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from worker.auth0 import ManagementApi, Priority
from worker.bootstrap.base import Base
from worker.bootstrap.ending import tombstones_of
from worker.domain.errors import NotFoundError, WorkerError
from worker.domain.grant import GrantId
from worker.domain.held import Withheld
from worker.monitoring.logs import logger
from worker.revocation import UserErasure
from worker.store import outbox
from worker.store.findings import FindingRepository
from worker.store.withholding import WithholdingRepository
from worker.sync import Departures, Puller

_log = logger(__name__)

LOOK_AGAIN = timedelta(hours=1)  # at whoever has waited his quiet time and could not be judged
_AT_ONCE = 50  # users of a tenant in one round


class Departing:
    """What two 404s lead to, for one process."""

    def __init__(
        self,
        base: Base,
        apis: Mapping[str, ManagementApi],
        *,
        findings: FindingRepository,
        pull: Puller,
    ) -> None:
        self._base = base
        self._pull = pull
        self._quiet = base.settings.deletion_quiet
        self._withholding = WithholdingRepository(base.engine, base.audit, outbox.add)
        self._erasure = UserErasure(
            tombstones=tombstones_of(base),
            clock=base.clock,
            offload=base.offload,
        )
        self.departed = Departures(
            apis,
            findings=findings,
            pull=pull,
            bury=self._end,
            withhold=self._withhold,
            clock=base.clock,
            offload=base.offload,
            quiet=self._quiet,
        )

    @property
    def every(self) -> timedelta:
        """Between two rounds of a tenant."""
        return min(timedelta(minutes=1), max(self._quiet / 4, timedelta(seconds=1)))

    async def look_again(self, tenant: str) -> Mapping[str, int]:
        """Read once more whoever has waited his quiet time: the third 404 ends his grants."""
        now = self._base.clock.now()
        waiting = await self._base.offload(
            self._withholding.unseen,
            tenant,
            Withheld.USER_MISSING,
            since=now - self._quiet,
            looked=now - min(self._quiet, LOOK_AGAIN),
            limit=_AT_ONCE,
        )
        back = 0
        for user_id in waiting:
            try:
                await self._pull.read(tenant, user_id, priority=Priority.BACKFILL)
                back += 1
            except NotFoundError:
                pass  # counted by the puller, and judged by `departed`
            except WorkerError as error:
                _log.info("departed_user_not_judged", tenant=tenant, code=error.code)
        return {"looked": len(waiting), "back": back}

    async def bury(
        self,
        tenant: str,
        user_id: str,
        *,
        actor: str = "worker:events",
        told: Mapping[str, object] | None = None,
    ) -> Sequence[GrantId]:
        """End every grant that points at the user; a worker revokes them at the providers."""
        buried = await self._erasure.erase(tenant, user_id, actor=actor, told=told)
        if buried:
            self._base.hints.task("upkeep.revocations")
        return buried

    async def _end(self, tenant: str, user_id: str, told: Mapping[str, object]) -> None:
        await self.bury(tenant, user_id, told=told)

    async def _withhold(self, tenant: str, user_id: str) -> datetime:
        now, offload, why = self._base.clock.now(), self._base.offload, Withheld.USER_MISSING
        withheld = await offload(
            self._withholding.withhold, tenant, user_id, why, actor="worker:events", now=now
        )
        if withheld:
            _log.warning("user_missing", tenant=tenant, grants=len(withheld))
            self._base.hints.task("upkeep.outbox")
        return await offload(self._withholding.since, tenant, user_id, why) or now
