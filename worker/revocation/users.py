"""A user is gone at Auth0: everything of his here goes too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker.domain.burial import Selection
from worker.domain.grant import GrantId
from worker.domain.ports import Clock, Offload
from worker.revocation.ports import Tombstones


class UserErasure:
    """Called only once the deletion is certain: 404s before and after a quiet time (I22)."""

    def __init__(self, *, tombstones: Tombstones, clock: Clock, offload: Offload) -> None:
        self._tombstones = tombstones
        self._clock = clock
        self._offload = offload

    async def erase(
        self,
        tenant: str,
        user_id: str,
        *,
        actor: str = "worker:events",
        told: Mapping[str, object] | None = None,
    ) -> Sequence[GrantId]:
        """Bury all grants of the user; a pull that began before the deletion never merges."""
        return await self._offload(
            self._tombstones.bury,
            Selection(tenant=tenant, user_id=user_id),
            why="user_deleted",
            actor=actor,
            now=self._clock.now(),
            user_gone=True,
            told=told,
        )
