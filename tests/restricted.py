"""The same PostgreSQL database, opened as one of the roles that may do little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from sqlalchemy import Engine, text

from worker.store import privileges
from worker.store.engine import open_engine
from worker.store.privileges import Rights


@contextmanager
def restricted(engine: Engine, rights: Rights) -> Iterator[Engine]:
    """An engine whose role has these rights; `engine` is the owner's."""
    role = f"least_{uuid4().hex}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
    privileges.restrict(engine, role, rights)
    opened = open_engine(engine.url.set(username=role).render_as_string(hide_password=False))
    try:
        yield opened
    finally:
        opened.dispose()
        with engine.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
