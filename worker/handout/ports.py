"""What reading needs of the store; synchronous, so the event loop passes through `Offload`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from worker.domain.forward import Forward, Moment
from worker.domain.grant import GrantId, GrantKey
from worker.domain.held import Ask, HeldGrant
from worker.domain.ports import AuditRecord


class HeldGrants(Protocol):
    """Grants without their refresh tokens. Raises everywhere: TransientError, the store is away."""

    def find(self, ask: Ask) -> Sequence[HeldGrant]:
        """What answers to tenant, connection and user (and identity); gone ones too."""

    def find_many(self, asks: Sequence[Ask]) -> Sequence[Sequence[HeldGrant]]:
        """`find` for several at once, in the same order."""

    def by_id(self, grant: GrantId) -> HeldGrant | None: ...

    def of_user(self, tenant: str, user_id: str) -> Sequence[HeldGrant]: ...

    def bring_forward(self, grant: GrantId, now: datetime, *, actor: str) -> Forward:
        """Make it due now if I12 allows; one statement decides, so a flood wins nothing."""

    def refused(self, key: GrantKey, grant: GrantId, *, age: float) -> None:
        """Its access token was refused at that age in seconds, though no answer named an end."""

    def why_stopped(self, tenant: str, connection: str) -> str | None:
        """Why the whole connection is not renewed; None: it is."""

    def problems(self, tenant: str, connection: str) -> Sequence[str]:
        """Codes of what an admin has to mend at the connection."""

    def timeline(self, grant: GrantId, limit: int) -> Sequence[Moment]:
        """The latest audit entries of a grant, newest first."""

    def candidates(self, grant: GrantId) -> Mapping[str, int]:
        """Refresh tokens kept beside the current one, counted by why."""

    def record(self, records: Sequence[AuditRecord]) -> None:
        """Durable when it returns (I19)."""
