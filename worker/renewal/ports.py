"""What renewing needs beyond `domain.ports`; store and journal meet these."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from worker.domain.attempt import Brought, Ending, Settled, Unfinished
from worker.domain.grant import Claim, GrantId, GrantKey
from worker.domain.learned import Change


class DueWork(Protocol):
    """One tenant has grants due at one provider."""

    @property
    def provider(self) -> str: ...

    @property
    def tenant(self) -> str: ...

    @property
    def since(self) -> datetime: ...


class Claims(Protocol):
    """Synchronous. Raises everywhere: TransientError, the store is away, or is another one than
    `lineage` says."""

    lineage: int | None  # the history of the store that was compared with our journals (I24)

    def due(self) -> Sequence[DueWork]: ...

    def claim_due(
        self,
        provider: str,
        tenants: Sequence[str],
        *,
        each: int,
        lease: float,
        since: Mapping[str, datetime],
    ) -> Sequence[Claim]:
        """Committed when it returns (I5); soonest to expire first."""

    def unfinished(
        self,
        provider: str,
        tenants: Iterable[str],
        dead: Iterable[str],
        since: Mapping[str, datetime],
    ) -> Sequence[Unfinished]: ...

    def take_over(
        self, chosen: Sequence[Unfinished], *, lease: float, proven: Collection[GrantId]
    ) -> Sequence[Claim]: ...

    def extend(self, claims: Sequence[Claim], *, lease: float) -> set[GrantId]:
        """Those of which the lease still was ours."""

    def lost(self, claims: Sequence[Claim]) -> set[tuple[GrantId, int]]:
        """Grant and fence of those that are ours no more: deleted, or taken over."""

    def reread(self, grant: GrantId) -> None: ...


class Settling(Protocol):
    """Synchronous. Writes endings, a group in one transaction."""

    def settle(self, endings: Sequence[Ending]) -> Settled:
        """Raises: TransientError (settle the same again), PermanentError (settle each alone)."""

    def counter(self, process: str) -> int:
        """How many groups with rotated tokens the store remembers of a process of this node."""

    def counted(self) -> Set[str]:
        """Processes of this node whose groups the store counts."""

    def uncount(self, processes: Iterable[str]) -> None:
        """They are gone, and so are their journals: nobody compares them any more."""

    def restore_counter(self, process: str, value: int) -> None:
        """After a rollback was repaired from the journals."""

    def lineage(self) -> int:
        """Which history of the store this is; another one may lack the last commits (I24)."""

    def silent(self, lineage: int) -> Sequence[str]:
        """Who vouched for another history, and not for this one: "node:process"."""

    def vouch(self, lineage: int, *, gone: Iterable[str], beside: Iterable[str]) -> Sequence[str]:
        """This process and the `gone` ones hold nothing that the store lacks; who is silent still,
        of those who knew another history and of the processes `beside` this one."""

    def unvouch(self, *processes: str) -> None:
        """These processes of this node are gone, and left nothing that the store lacks."""

    def forget(self, silent: Iterable[str]) -> None:
        """They did not come back within the hold."""


class Journal(Protocol):
    """Of this process."""

    @property
    def process(self) -> str: ...

    async def append(self, brought: Brought) -> int:
        """Durable when it returns. Raises: TransientError, the disk refuses."""

    def mark(self, entries: Sequence[int], counter: int) -> None: ...

    async def probe(self) -> bool: ...

    def history(self, above: int = 0) -> Sequence[Brought]:
        """Oldest first: what the store is not known to have, or took as more than its
        `above`-th group of this process."""

    def lacking(self) -> Sequence[str]:
        """What of that cannot be read."""

    async def close(self) -> None: ...


class Dead(Protocol):
    """A process of this node that is proved to be gone, and what its journal holds."""

    @property
    def name(self) -> str: ...

    @property
    def left(self) -> Sequence[Brought]: ...

    def history(self, above: int = 0) -> Sequence[Brought]:
        """As of `Journal`."""

    @property
    def counter(self) -> int: ...

    @property
    def damaged(self) -> Sequence[str]:
        """What is lost of it, whatever anybody does."""

    @property
    def unread(self) -> Sequence[str]:
        """What could not be looked at, and how to mend that."""

    def replayed(self) -> None:
        """The store has what is left; that is a proof, unless something is `damaged`."""


class NodeJournals(Protocol):
    """The journals of this node's processes. Synchronous."""

    def unreplayed(self, *, but: Container[str] = ()) -> AbstractContextManager[Iterator[Dead]]: ...

    def all_dead(self) -> AbstractContextManager[Iterator[Dead]]: ...

    def drop_old(self) -> None:
        """What no replay needs any more."""

    def names(self) -> frozenset[str]:
        """Processes that have a journal."""

    def replayed_names(self) -> frozenset[str]:
        """Dead processes whose journals hold nothing that the store lacks."""

    def living(self) -> frozenset[str]:
        """The other processes of this node."""

    def is_alive(self, process: str) -> bool: ...


class Copies(Protocol):
    """What Auth0 holds of a grant, read anew and merged. Raises: WorkerError, it was not seen."""

    async def account(self, key: GrantKey, user_id: str) -> None:
        """Of the account, whichever user has it now; it returns too where nobody has it."""

    async def connection(self, tenant: str, name: str) -> None:
        """Of the administrator. Raises: NotFoundError, it is gone."""


class Learning(Protocol):
    """What answers taught. Synchronous. Raises everywhere: TransientError, the store is away."""

    def end_told(
        self, grant: GrantId, *, generation: int, expires_at: datetime, due_at: datetime | None
    ) -> bool: ...

    def base_told(self, grant: GrantId, base: str) -> bool:
        """Where the API of a grant's account is; True: that is news."""

    def changed(self, key: GrantKey, entry: str, change: Change, now: datetime) -> bool:
        """True: nobody had noticed it on this connection before."""


class Hosts(Protocol):
    """Provider hosts that asked us to wait, shared by all processes. Synchronous."""

    def block(
        self, host: str, until: datetime, why: str, *, now: datetime | None = None
    ) -> None: ...

    def blocked(self, now: datetime) -> Mapping[str, datetime]: ...
