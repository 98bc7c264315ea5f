"""Brings a database to the newest schema, and tells whether it is there.

Two processes may start at once: the second waits for the first and finds nothing left to do.
PostgreSQL holds an advisory lock until the commit, SQLite its write lock; either way the whole
upgrade is one transaction, so a crash half-way leaves the old schema.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

import worker
from worker.domain.errors import ConfigurationError
from worker.store.engine import reading, writing

_LOCK = 0x65766572_6772616E  # "evergran", as a bigint; shared by all our processes


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply what is missing, in one transaction. Raises: TransientError when the store is away."""
    with writing(engine) as connection:
        lock(connection)
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Undo down to `revision` ("base": drop every table of ours)."""
    with writing(engine) as connection:
        lock(connection)
        command.downgrade(_config(connection), revision)


def is_current(engine: Engine) -> bool:
    """Whether the schema is the one this code was written for, or a newer one.

    A newer schema is fine: a migration goes first, and the code still running lives with it.
    """
    scripts = ScriptDirectory.from_config(_config(None))
    known = {script.revision for script in scripts.walk_revisions()}
    found = revision_of(engine)
    return found is not None and (found == scripts.get_current_head() or found not in known)


def revision_of(engine: Engine) -> str | None:
    """The database's revision; None: never migrated."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def lock(connection: Connection) -> None:
    """Wait until no other process migrates this database; held until the transaction ends.

    On SQLite the transaction, begun IMMEDIATE, is the lock already.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _config(connection: Connection | None) -> Config:
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
