"""What giving grants up needs of the store; synchronous, callers pass through `Offload`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from worker.domain.burial import Buried, Receipt, Selection
from worker.domain.grant import GrantId
from worker.domain.held import Ask, HeldGrant
from worker.domain.ports import AuditRecord


class Finder(Protocol):
    """The reading side of grants, without refresh tokens."""

    def find(self, ask: Ask) -> Sequence[HeldGrant]: ...

    def of_user(self, tenant: str, user_id: str) -> Sequence[HeldGrant]: ...


class Tombstones(Protocol):
    """Each call is one transaction with its audit. Raises: TransientError, the store is away."""

    def bury(
        self, selection: Selection, *, why: str, actor: str, now: datetime, user_gone: bool = False
    ) -> Sequence[GrantId]:
        """From the commit on nothing of these is served or spent (I14). Returns the new ones."""

    def withdraw(
        self, selection: Selection, *, why: str, actor: str, now: datetime
    ) -> Sequence[GrantId]:
        """The present access tokens count as ended and are renewed at once."""

    def ready(self, now: datetime, limit: int) -> Sequence[Buried]:
        """Lease what waits to be revoked; a lease that lapses is taken again."""

    def settle(
        self,
        buried: Buried,
        receipts: Sequence[Receipt],
        *,
        next_at: datetime | None,
        now: datetime,
    ) -> None:
        """Keep the receipts; come back at `next_at`, or destroy everything if that is None."""

    def receipt(self, grant: GrantId) -> Sequence[AuditRecord]: ...
