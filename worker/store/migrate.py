"""Brings a database to the newest schema, and tells whether it is there.

Two processes may start at once: the second waits for the first and finds nothing left to do.
PostgreSQL holds an advisory lock until the commit, SQLite its write lock; either way the whole
upgrade is one transaction, so a crash half-way leaves the old schema.

Alembic is imported by those who migrate only: it brings a template engine and its highlighters,
seven megabytes, to a question that every process asks and the names of the files answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

import worker
from worker.domain.errors import ConfigurationError
from worker.store.engine import reading, writing

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 0x65766572_6772616E  # "evergran", as a bigint; shared by all our processes


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply what is missing, in one transaction. Raises: TransientError when the store is away.

    A schema newer than this code is left as it is: an older release was put back.
    """
    from alembic import command

    with writing(engine) as connection:
        lock(connection)
        if _revision(connection) in (None, *revisions()):
            command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Undo down to `revision` ("base": drop every table of ours)."""
    from alembic import command

    with writing(engine) as connection:
        lock(connection)
        command.downgrade(_config(connection), revision)


def is_current(engine: Engine) -> bool:
    """Whether the schema is the one this code was written for, or a newer one.

    A newer schema is fine: a migration goes first, and the code still running lives with it.
    """
    known, found = revisions(), revision_of(engine)
    return found is not None and (found == known[-1] or found not in known)


def revisions() -> list[str]:
    """Those this code knows, oldest first: `versions/0001_….py` and so on."""
    return sorted(path.name[:4] for path in _scripts().glob("versions/[0-9]*.py"))


def revision_of(engine: Engine) -> str | None:
    """The database's revision; None: never migrated."""
    with reading(engine) as connection:
        return _revision(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    asked = text("SELECT version_num FROM alembic_version")
    return connection.execute(asked).scalar_one_or_none()


def lock(connection: Connection) -> None:
    """Wait until no other process migrates this database; held until the transaction ends.

    On SQLite the transaction, begun IMMEDIATE, is the lock already.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _scripts() -> Path:
    """`migrations/` stands beside the package, in a checkout as in site-packages."""
    package = Path(worker.__file__).parent
    for place in (package / "migrations", package.parent / "migrations"):
        if (place / "versions").is_dir() and (place / "env.py").is_file():
            return place
    raise ConfigurationError(f"no migrations/ beside {package}: the installation is incomplete")
