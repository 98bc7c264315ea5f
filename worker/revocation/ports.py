"""What giving grants up needs of the store; synchronous, callers pass through `Offload`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from worker.domain.burial import Bequest, Buried, Concerned, Fate, Receipt, Selection, Sibling
from worker.domain.grant import GrantId, GrantKey
from worker.domain.held import Ask, HeldGrant
from worker.domain.ports import AuditRecord

Peer = tuple[str, str]
"""Tenant and name of a connection."""


class Finder(Protocol):
    """The reading side of grants, without refresh tokens."""

    def find(self, ask: Ask) -> Sequence[HeldGrant]: ...


class Kin(Protocol):
    """Which grants are meant, which end with them, and what became of them."""

    def selected(self, selection: Selection) -> Sequence[Concerned]:
        """What is meant and not gone yet."""

    def siblings(
        self, of: Sequence[GrantKey], peers: Sequence[Peer], *, besides: Collection[GrantId]
    ) -> Sequence[Sibling]:
        """Living grants of the same accounts on these connections."""

    def followers(self, of: Collection[GrantId]) -> Sequence[Sibling]:
        """Living grants that have their refresh token from one of these (C18)."""

    def fates(self, grants: Sequence[GrantId]) -> Sequence[Fate]: ...

    def given_up_since(self, tenant: str, since: datetime) -> Sequence[Fate]: ...


class Tombstones(Protocol):
    """Each call is one transaction with its audit. Raises: TransientError, the store is away."""

    def bury(
        self,
        selection: Selection,
        *,
        why: str,
        actor: str,
        now: datetime,
        user_gone: bool = False,
        told: Mapping[str, object] | None = None,
    ) -> Sequence[GrantId]:
        """From the commit on nothing of these is served or spent (I14). Returns the new ones."""

    def withdraw(
        self, selection: Selection, *, why: str, actor: str, now: datetime
    ) -> Sequence[GrantId]:
        """The present access tokens count as ended; what can be renewed is renewed at once."""

    def ready(self, now: datetime, limit: int) -> Sequence[Buried]:
        """Lease what waits to be revoked; a lease that lapses is taken again."""

    def settle(
        self,
        buried: Buried,
        receipts: Sequence[Receipt],
        *,
        next_at: datetime | None,
        now: datetime,
        bequest: Bequest | None = None,
    ) -> None:
        """Keep the receipts; come back at `next_at`, or destroy everything if that is None, and
        hand over what is bequeathed: or come back at once, if the heir is one no more."""

    def receipt(self, grant: GrantId) -> Sequence[AuditRecord]: ...
