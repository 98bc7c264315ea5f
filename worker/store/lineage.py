"""Which history of the database this is, and which processes have looked at it (I24).

A replica that was promoted, or a recovery to a point in time, begins another history, and it may
lack the last commits of the one before. Only the journals of those who made these commits tell. So
each process compares its own with a history that is new to it, and *vouches*; until every process
that vouched for the history before has done so again, nobody spends a refresh token.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import Connection, Engine, delete, select

from worker.domain.errors import TransientError, WorkerError
from worker.store.engine import REFUSES, reading
from worker.store.tables import CounterRow
from worker.store.upsert import insert_into

# A WAL file's name begins with the timeline, which each promotion raises; unlike the control file
# it tells at once. https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-BACKUP
_TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint"
_HIDDEN = "0::bigint"  # a service that does not let its log be seen; the counters are left then
Lineage = Callable[[Connection], int]
_VOUCHED = "whole:"
_NEVER = -1  # of a process that is known to live, and has vouched for no history that we know of
_expressions: MutableMapping[Engine, str] = WeakKeyDictionary()
_log = structlog.get_logger(__name__)


def lineage_of(connection: Connection) -> int:
    """On SQLite always 0: all processes share a host there, and its own journals tell.

    Raises: OperationalError, this is a replica still.
    """
    if connection.dialect.name != "postgresql":
        return 0
    return int(connection.exec_driver_sql(f"SELECT {postgres_lineage(connection)}").scalar_one())


def postgres_lineage(connection: Connection) -> str:
    """The expression that tells it, for statements that depend on it. Raises: TransientError."""
    engine = connection.engine
    if engine not in _expressions:
        try:
            with reading(engine) as probing:
                probing.exec_driver_sql(f"SELECT {_TIMELINE}")
            _expressions[engine] = _TIMELINE
        except WorkerError as error:
            if isinstance(error, TransientError) and error.code != REFUSES:
                raise
            _log.warning("store_hides_its_history")
            _expressions[engine] = _HIDDEN
    return _expressions[engine]


def vouch(connection: Connection, who: str, lineage: int) -> None:
    """`who` holds nothing that this history lacks."""
    row = insert_into(connection, CounterRow).values(name=_VOUCHED + who, value=lineage)
    connection.execute(
        row.on_conflict_do_update(index_elements=[CounterRow.name], set_={"value": lineage})
    )


def expect(connection: Connection, *who: str) -> None:
    """They live, and are silent until they vouch, for those too who cannot see that they live.

    Who vouched for the last history in one of the commits that this one lacks is forgotten.
    """
    if not who:
        return
    rows = [{"name": _VOUCHED + one, "value": _NEVER} for one in who]
    expected = insert_into(connection, CounterRow).on_conflict_do_nothing()
    connection.execute(expected, rows)


def unvouch(connection: Connection, *who: str) -> None:
    """They are gone, and left nothing that the store lacks."""
    names = [_VOUCHED + one for one in who]
    connection.execute(delete(CounterRow).where(CounterRow.name.in_(names)))


def silent(connection: Connection, lineage: int) -> list[str]:
    """Who vouched for another history, and not yet for this one."""
    asked = select(CounterRow.name).where(
        CounterRow.name.startswith(_VOUCHED, autoescape=True), CounterRow.value != lineage
    )
    return [name.removeprefix(_VOUCHED) for name in connection.execute(asked).scalars()]
