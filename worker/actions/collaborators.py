"""Whom the actions' `api` asks to do things; `bootstrap` brings them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from worker.domain.ports import Clock, Notice, Offload, Pull


class Forget(Protocol):
    """Ends the grants of a user who is gone."""

    async def __call__(self, tenant: str, user_id: str) -> None:
        """Called only after two reads, some time apart, found no such user.

        Must leave alone a grant whose account is found under another user (linking makes the
        secondary user vanish). Raises: TransientError.
        """


class Brake(Protocol):
    """Slows our own requests to a tenant."""

    def __call__(self, tenant: str, *, for_: timedelta) -> None: ...


class Reserve(Protocol):
    """Spaces pulls of one subject out, over all processes; blocking."""

    def __call__(self, tenant: str, subject: str, *, gap: timedelta) -> timedelta:
        """Zero: pull now; else how long to wait. See `PullRepository.reserve`."""


class Synced(Protocol):
    """Notes how a directory sync ended; blocking."""

    def __call__(self, tenant: str, name: str, *, failed: bool, at: datetime) -> None:
        """`at`: when; one that is older than the last noted changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times; a rehearsal shortens them."""

    confirm_deletion_after: timedelta = timedelta(seconds=30)
    stranger_after: timedelta = timedelta(seconds=60)  # longer than a read under way may take
    between_pulls: timedelta = timedelta(seconds=2)  # of one user, by all processes
    brake_for: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """Everything behind `api`."""

    pull: Pull
    forget: Forget
    tell: Callable[[Sequence[Notice]], None]  # into the outbox; blocking
    connection_name: Callable[[str, str], str | None]  # (tenant, connection id) → name; blocking
    owner: Callable[[str, str, str], str | None]  # (tenant, connection, account) → user; blocking
    holds: Callable[[str, str], bool]  # (tenant, user id): a living grant is his; blocking
    brake: Brake
    reserve: Reserve
    synced: Synced
    clock: Clock
    offload: Offload
