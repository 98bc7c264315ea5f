"""API keys: made here, shown once, remembered by their SHA-256."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from worker.domain.access import KEY_PREFIX, ApiKey, Scope, digest_of, parse_verbs
from worker.domain.errors import ConfigurationError
from worker.domain.secret import Secret
from worker.store.engine import reading, writing
from worker.store.tables import ApiKeyRow

_KEY_BYTES = 32  # 256 random bits: nothing to guess, so a plain SHA-256 will do


class ApiKeyRepository:
    """The `api_keys` table. A revoked key keeps its row: its name is in the audit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self, name: str, *, scope: Scope, now: datetime, expires_at: datetime | None = None
    ) -> Secret:
        """The new key, which nobody can show again. Raises: ConfigurationError, name taken."""
        key = Secret(KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES))
        row = {
            "id": uuid4(),
            "name": name,
            "digest": digest_of(key),
            "tenant": scope.tenant,
            "connection": scope.connection,
            "user": scope.user,
            "verbs": " ".join(sorted(scope.verbs)),
            "created_at": now,
            "expires_at": expires_at,
        }
        with writing(self._engine) as connection:
            try:
                connection.execute(insert(ApiKeyRow).values(row))
            except IntegrityError:
                raise ConfigurationError(f"there is an API key {name!r} already") from None
        return key

    def find(self, digest: bytes) -> ApiKey | None:
        """By SHA-256, revoked and expired ones too; whether it is live, the caller decides.

        The index compares bytes with an early end; what that tells is a digest, of which nobody
        can make the key. The final comparison is constant in time all the same.
        """
        table = ApiKeyRow.__table__
        with reading(self._engine) as connection:
            row = connection.execute(select(table).where(table.c.digest == digest)).first()
        return _key(row) if row and hmac.compare_digest(row.digest, digest) else None

    def verify(self, key: Secret, now: datetime) -> ApiKey | None:
        """The key's entry if it may be used now."""
        found = self.find(digest_of(key))
        return found if found and found.live(now) else None

    def all(self) -> Sequence[ApiKey]:
        table = ApiKeyRow.__table__
        with reading(self._engine) as connection:
            return [_key(row) for row in connection.execute(select(table).order_by(table.c.name))]

    def revoke(self, name: str, now: datetime) -> bool:
        """From now on it is refused. False: no such key, or revoked already."""
        live = (ApiKeyRow.name == name) & ApiKeyRow.revoked_at.is_(None)
        with writing(self._engine) as connection:
            gone = connection.execute(update(ApiKeyRow).where(live).values(revoked_at=now))
            return gone.rowcount == 1


def _key(row: Row[Any]) -> ApiKey:
    scope = Scope(
        tenant=row.tenant,
        connection=row.connection,
        user=row.user,
        verbs=parse_verbs(row.verbs.split()),
    )
    return ApiKey(
        name=row.name,
        digest=row.digest,
        scopes=(scope,),
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
