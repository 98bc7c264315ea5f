"""Carries out what `domain.merge` decides about Auth0's copy: one transaction per pull.

The pull fence is checked, the user's grants are locked in the order of their keys, every decision
is applied and audited, and all of it commits or none. No network call happens in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from worker.domain.errors import PermanentError, TransientError
from worker.domain.grant import GrantKey
from worker.domain.held import Withheld
from worker.domain.merge import Arrival, Why
from worker.domain.ports import AuditRecord, Vault
from worker.store import outbox
from worker.store.engine import writing
from worker.store.filling import order_of
from worker.store.merge_transaction import MergedGrant, MergeTransaction
from worker.store.pulls import Begun, still_latest
from worker.store.store_time import StoreTime, store_time

_COLLISIONS = 3  # two pulls may make the same grant, or bring the same token, at once


class Audit(Protocol):
    """The audit log, written inside the caller's transaction."""

    def append(self, connection: Connection, records: Sequence[AuditRecord]) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a pull has changed. `overtaken`: nothing, for a later pull has begun."""

    overtaken: bool = False
    grants: tuple[MergedGrant, ...] = ()
    detached: tuple[str, ...] = ()  # users to whom grants went that were this user's (M9)

    def saw(self, key: GrantKey) -> bool:
        """Whether that account was among what was read."""
        account = (key.connection, key.identity_user_id)
        return account in {(g.key.connection, g.key.identity_user_id) for g in self.grants}

    @property
    def was_overtaken(self) -> bool:
        """The whole pull, or one grant of it by what another pull brought meanwhile."""
        return self.overtaken or any(one.decision.why is Why.OVERTAKEN for one in self.grants)


class MergeRepository:
    """Merges pulls into the store. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        vault: Vault,
        audit: Audit,
        *,
        actor: str,
        time: StoreTime = store_time,
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._audit = audit
        self._actor = actor
        self._time = time

    def merge(
        self,
        begun: Begun,
        arrivals: Sequence[Arrival],
        *,
        user_id: str | None,
        now: datetime,
        withheld: Withheld | None = None,
    ) -> Merged:
        """Merge everything that one pull has read.

        Args:
            arrivals: every identity of the user, those without tokens too: a grant of his that
                is not among them has left him.
            user_id: None for a connection's own tokens.
            now: by the caller's clock, which counts where the store has none of its own.
            withheld: why nothing of this user is handed out; None: it is, whatever was before.
        Raises: TransientError when the store is away.
        """
        for _ in range(_COLLISIONS):
            try:
                return self._once(begun, arrivals, user_id, now, withheld)
            except PermanentError as error:
                if not isinstance(error.__cause__, IntegrityError):
                    raise
        raise TransientError("store: merges keep colliding", code="merge_collision")

    def _once(
        self,
        begun: Begun,
        arrivals: Sequence[Arrival],
        user_id: str | None,
        now: datetime,
        withheld: Withheld | None,
    ) -> Merged:
        with writing(self._engine) as connection:
            if not still_latest(connection, begun):
                return Merged(overtaken=True)
            now = self._time(connection, now)
            merging = MergeTransaction(
                connection, self._vault, begun, self._actor, now, withheld=withheld
            )
            ordered = sorted(arrivals, key=lambda arrival: order_of(arrival.key))
            merged = tuple(merging.one(arrival) for arrival in ordered)
            detached = merging.detach(user_id, {a.key for a in arrivals}) if user_id else ()
            self._audit.append(connection, merging.records)
            outbox.add(connection, merging.notices, now)
            return Merged(grants=merged, detached=detached)
