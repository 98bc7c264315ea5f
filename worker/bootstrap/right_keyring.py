"""Is this the store's keyring? Asked at each start: what is sealed with a wrong one is lost."""

from __future__ import annotations

from sqlalchemy import Engine

from worker.domain.errors import ConfigurationError, TransientError
from worker.store import migrate, rewrap
from worker.vault import Keyring


def refuse_foreign_keys(engine: Engine, keyring: Keyring, address: str) -> None:
    """Raises: ConfigurationError. A store that is away, or empty, is no reason to refuse."""
    held = {key.id for key in keyring.keys}
    try:
        ours = not migrate.is_current(engine) or rewrap.belongs(engine, held)
    except TransientError:
        return
    if not ours:
        raise ConfigurationError(
            f"{address} is not this store's keyring: it opens none of its tokens; point"
            " EVERGRANT_KEYRING to the right one",
            code="wrong_keyring",
        )
