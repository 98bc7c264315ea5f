"""Runs the migrations on the database of EVERGRANT_DATABASE_URL, or on a connection handed in."""

from __future__ import annotations

from alembic import context

from worker.store.tables import Base


def run() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection)
        return
    from worker.settings import database_url
    from worker.store.engine import open_engine

    with open_engine(database_url()).connect().execution_options(writes=True) as opened:
        _migrate(opened)
        opened.commit()


def _migrate(connection: object) -> None:
    context.configure(
        connection=connection,  # type: ignore[arg-type]  # alembic types it as Optional[Connection]
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        user_module_prefix="types.",
    )
    with context.begin_transaction():
        context.run_migrations()


run()
