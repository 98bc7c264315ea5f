"""What a first start makes: a data directory, a keyring, and an embedded database's schema."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Engine

from worker.bootstrap.keyrings import Ring, belongs, refuse_foreign_keys, rings_of
from worker.domain.errors import ConfigurationError, WorkerError
from worker.journal import node_of
from worker.settings import Settings
from worker.store import migrate, rewrap
from worker.store.engine import open_engine
from worker.store.overview import Overview
from worker.vault import OF_A_TENANT, Keyring


def first_start(settings: Settings) -> list[str]:
    """Make what is missing; returns what to tell the operator.

    A keyring is made only where nothing can be sealed under another one yet. A database on a
    server is never migrated unasked: several machines may share it. Where a tenant's own keyring
    is not right that is told, and the others start without it.
    Raises: ConfigurationError with the command to run.
    """
    node_of(settings.data_dir)  # before several processes ask for it at once
    done = [*_keyring(settings), *_schema(settings), *_least_key()]
    _fits(settings)
    return [*done, *_of_tenants(settings)]


def _keyring(settings: Settings) -> list[str]:
    if ":" in settings.keyring or Path(settings.keyring).exists():
        return []
    if _has_data(settings):
        raise ConfigurationError(
            f"no keyring at {settings.keyring}, but the store holds sealed tokens: restore the"
            " keyring, or point EVERGRANT_KEYRING to it",
            code="keyring_missing",
        )
    Path(settings.keyring).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    Keyring.create(settings.keyring)
    return [f"made a keyring: {settings.keyring} (back it up; without it no token opens)"]


def _fits(settings: Settings) -> None:
    engine = open_engine(settings.database_url)
    try:
        keyring = Keyring.load(settings.keyring, environment=os.environ)
        refuse_foreign_keys(engine, keyring, settings)
    finally:
        engine.dispose()


def _of_tenants(settings: Settings) -> list[str]:
    engine = open_engine(settings.database_url)
    try:
        return [told for ring in rings_of(settings)[1:] for told in _of_tenant(ring, engine)]
    finally:
        engine.dispose()


def _of_tenant(ring: Ring, engine: Engine) -> list[str]:
    who = ", ".join(ring.tenants)
    try:
        fresh = ":" not in ring.address and not Path(ring.address).exists()
        if fresh and not rewrap.references(engine, ring.whose):
            ring.source().create(Keyring.generate(OF_A_TENANT))
            return [f"made a keyring for {who}: {ring.address} (back it up)"]
        if not belongs(engine, ring.vault().keyring, ring.whose):
            return [f"left out: {who}: {ring.address} opens none of its tokens in the store"]
    except WorkerError as error:
        return [f"left out: {who}: {error}"]
    return []


def _has_data(settings: Settings) -> bool:
    if settings.embedded_database and not Path(settings.database_url.split(":///")[1]).exists():
        return False
    engine = open_engine(settings.database_url)
    try:
        return migrate.revision_of(engine) is not None and not Overview(engine).is_empty()
    finally:
        engine.dispose()


def _schema(settings: Settings) -> list[str]:
    engine = open_engine(settings.database_url)
    try:
        if migrate.is_current(engine):
            return []
        if not settings.embedded_database:
            raise ConfigurationError("the database is not migrated: run `evergrant migrate` first")
        migrate.upgrade(engine)
        return ["migrated the embedded database"]
    finally:
        engine.dispose()


def _least_key() -> list[str]:
    return [
        "note: all roles on this machine read one keyring file; for separated keys run each role"
        " on its own (docs/operating.md)"
    ]
