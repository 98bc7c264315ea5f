"""Runs the migrations on the database of EVERGRANT_DATABASE_URL, or on a connection handed in.

A revision that has landed is never edited: each change is a new one, and the code that is still
running must live with it.

    EVERGRANT_DATABASE_URL=sqlite:////tmp/new.db alembic upgrade head
    EVERGRANT_DATABASE_URL=sqlite:////tmp/new.db \
        alembic revision --autogenerate --rev-id NNNN -m "what changes"
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from worker.store.migrate import lock
from worker.store.tables import Base


def run() -> None:
    """`worker.store.migrate` hands its own connection in; `alembic` by hand opens one."""
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection)
        return
    from worker.settings import database_url
    from worker.store.engine import open_engine, writing

    with writing(open_engine(database_url())) as opened:
        lock(opened)
        _migrate(opened)


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        user_module_prefix="types.",
    )
    with context.begin_transaction():
        context.run_migrations()


run()
