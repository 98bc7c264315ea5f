"""The renewal engine of this process, and its journal."""

from __future__ import annotations

from worker.bootstrap.base import Base
from worker.bootstrap.runtime import Threads
from worker.domain.ports import TokenEndpoint, Vault
from worker.journal import Journal, NodeJournals, new_process_name
from worker.renewal import Engine
from worker.renewal.ports import Copies
from worker.store import outbox
from worker.store.claims import ClaimsRepository
from worker.store.connections import ConnectionRepository
from worker.store.hosts import HostRepository
from worker.store.learning import LearningRepository
from worker.store.settling import SettlingRepository


def engine_of(
    base: Base,
    *,
    vault: Vault,
    connections: ConnectionRepository,
    endpoint: TokenEndpoint,
    pull: Copies,
) -> Engine:
    """Made on the loop that will run it. Raises: ConfigurationError, the journal is unsafe."""
    directory = base.settings.data_dir / "journal"
    node, process, clock = base.node, new_process_name(), base.clock
    return Engine(
        node=node,
        claims=ClaimsRepository(base.engine, node=node, process=process, clock=clock),
        settling=SettlingRepository(
            base.engine,
            node=node,
            process=process,
            clock=clock,
            audit=base.audit,
            tell=outbox.add,
        ),
        # threads of its own: a sync must not wait behind a slow store
        journal=Journal(directory, process=process, offload=Threads(2, "journal")),
        journals=NodeJournals(directory, own=process),
        connections=connections,
        catalogue=base.catalogue,
        endpoint=endpoint,
        vault=vault,
        hosts=HostRepository(base.engine),
        learning=LearningRepository(base.engine, tell=outbox.add),
        pull=pull,
        clock=base.clock,
        offload=base.offload,
        confirm_after=base.settings.confirm_after,
    )
