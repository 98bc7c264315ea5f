"""Giving grants up: the parts that web, worker and terminal put together alike."""

from __future__ import annotations

from worker.bootstrap.base import Base
from worker.renewal.store_clock import StoreClock
from worker.revocation import Compromise, Reach, nature_from
from worker.store import outbox
from worker.store.concerned import ConcernedRepository
from worker.store.connections import ConnectionRepository
from worker.store.tombstones import TombstoneRepository


def reach_of(base: Base, connections: ConnectionRepository) -> Reach:
    kin = ConcernedRepository(base.engine)
    return Reach(kin, nature_from(base.catalogue, connections.with_deleted()))


def tombstones_of(base: Base) -> TombstoneRepository:
    return TombstoneRepository(base.engine, base.audit, outbox.add)


def compromise_of(base: Base) -> Compromise:
    """By the store's clock: a leak is answered from whichever host. Raises: TransientError."""
    clock = StoreClock(base.clock)
    clock.heard(base.store_now())
    return Compromise(
        tombstones=tombstones_of(base),
        kin=ConcernedRepository(base.engine),
        reach=reach_of(base, base.connections()),
        clock=clock,
        offload=base.offload,
    )
