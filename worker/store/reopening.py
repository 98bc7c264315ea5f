"""A mended connection: it is open again, and what had been put off for its sake falls due."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Case, Connection, and_, case, literal, or_, update

from worker.domain.grant import GrantState
from worker.store.tables import ConnectionRow, GrantRow
from worker.store.types import Instant

PUT_OFF = timedelta(minutes=15)  # the longest that an attempt is put off for its connection
FELT = timedelta(seconds=6)  # until every process has read the connection anew
SPREAD = timedelta(seconds=1)  # between slices, of which there are sixteen
_SLICES = 16
PARKED = and_(
    GrantRow.state == GrantState.ACTIVE.value,
    GrantRow.renewable,
    GrantRow.alias_of.is_(None),
    GrantRow.failures > 0,
    GrantRow.reason.is_not(None),
)
"""Refused until an administrator at the provider acts; then the same refresh token renews."""


def reopen(db: Connection, tenant: str, name: str, now: datetime) -> None:
    """Take the stop off, and bring forward the grants that waited for it."""
    this = (ConnectionRow.tenant == tenant, ConnectionRow.name == name)
    db.execute(update(ConnectionRow).where(*this).values(stopped=None, stopped_at=None))
    bring_forward(db, tenant, name, now)


def bring_forward(db: Connection, tenant: str, name: str, now: datetime) -> int:
    """Let what was put off for the connection's sake fall due, in its order; how many grants.

    Not before every process knows the new secret: one that still sent the old one would stop the
    connection again. Grants that back off from a failure of their own keep their time, for the
    provider may have asked for it; those parked until an administrator acts wait for nothing else.
    """
    put_off = and_(
        GrantRow.due_at <= now + PUT_OFF,
        GrantRow.last_error.is_not(None),
        or_(GrantRow.failures == 0, GrantRow.last_error == "connection_stopped"),
    )
    brought = db.execute(
        update(GrantRow)
        .where(
            GrantRow.tenant == tenant,
            GrantRow.connection == name,
            GrantRow.state.in_([GrantState.ACTIVE.value, GrantState.SUSPECT.value]),
            GrantRow.attempt.is_(None),
            GrantRow.due_at > now,
            or_(put_off, PARKED),
            or_(GrantRow.not_before.is_(None), GrantRow.not_before <= now),
        )
        .values(due_at=_sooner(now))
    )
    return brought.rowcount


def _sooner(now: datetime) -> Case[Any]:
    """Sixteen slices instead of arithmetic, which the two databases write differently."""
    starts = [literal(now + FELT + SPREAD * n, Instant()) for n in range(_SLICES)]
    ends = [now + PUT_OFF * (n + 1) / _SLICES for n in range(_SLICES)]
    slices = [(GrantRow.due_at <= end, start) for end, start in zip(ends, starts, strict=True)]
    return case(*slices[:-1], else_=starts[-1])
