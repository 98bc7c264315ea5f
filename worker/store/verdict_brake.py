"""Holds verdicts when a mass of one connection's grants is refused (I8).

The brake stays on until a grant that was suspect renews, or somebody releases it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select, update

from worker.domain.attempt import Brought, Refused
from worker.domain.ports import Notice
from worker.domain.verdict import BRAKE_LEAST, BRAKE_WINDOW, brakes
from worker.store.tables import ConnectionRow, GrantRow

_UNTIL_RELEASED = datetime(9999, 1, 1, tzinfo=UTC)


def is_on(db: Connection, refused: Refused, now: datetime) -> bool:
    asked = select(ConnectionRow.brake_until).where(
        ConnectionRow.tenant == refused.tenant, ConnectionRow.name == refused.connection
    )
    until = db.execute(asked).scalar_one_or_none()
    return until is not None and until > now


def count(db: Connection, refused: Refused, now: datetime) -> list[Notice]:
    """Count a new suspect; put the brake on if that is one too many, and say so once."""
    of_connection = (GrantRow.tenant == refused.tenant, GrantRow.connection == refused.connection)
    lately = GrantRow.suspect_since > now - BRAKE_WINDOW
    suspects = db.execute(select(func.count()).where(*of_connection, lately)).scalar_one()
    if suspects <= BRAKE_LEAST or is_on(db, refused, now):
        return []
    grants = db.execute(select(func.count()).where(*of_connection)).scalar_one()
    if not brakes(suspects=suspects, grants=grants):
        return []
    put_on = update(ConnectionRow).where(
        ConnectionRow.tenant == refused.tenant, ConnectionRow.name == refused.connection
    )
    db.execute(put_on.values(brake_until=_UNTIL_RELEASED))
    return [
        Notice(
            tenant=refused.tenant,
            kind="verdicts_held",
            episode=f"verdicts_held:{refused.connection}:{now.isoformat()}",
            reason=f"{suspects} of {grants} grants of {refused.connection} refused in 10 minutes",
        )
    ]


def release(db: Connection, healed: Iterable[Brought]) -> None:
    """A grant that was suspect has renewed: refusals mean something again."""
    for tenant, connection in {(one.tenant, one.connection) for one in healed}:
        db.execute(
            update(ConnectionRow)
            .where(
                ConnectionRow.tenant == tenant,
                ConnectionRow.name == connection,
                ConnectionRow.brake_until.is_not(None),
            )
            .values(brake_until=None)
        )
