"""Grants put straight into a store, and renewed there, for tests of whoever reads them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, insert, select, update

from tests.clock import FakeClock
from worker.domain.grant import GrantId
from worker.domain.ports import Vault
from worker.domain.secret import Secret
from worker.store.engine import reading, writing
from worker.store.tables import CandidateRow, ConnectionRow, GrantRow

HOUR = timedelta(hours=1)


class GrantTable:
    """`add` makes one with tokens that open, `renew` does what a committed renewal does."""

    def __init__(self, engine: Engine, vault: Vault, clock: FakeClock) -> None:
        self._engine = engine
        self._vault = vault
        self._clock = clock

    def add(
        self,
        *,
        access_token: str | None = "at-0",
        refresh_token: str | None = "rt-0",
        life: timedelta | None = HOUR,
        **columns: Any,
    ) -> GrantId:
        grant, now = GrantId(uuid4()), self._clock.now()
        tenant = columns.get("tenant", "acme")
        generation = columns.get("generation", 0)
        access_key, refresh_key = self._vault.new_keys(tenant, grant)
        values: dict[str, Any] = {
            "id": grant,
            "tenant": tenant,
            "connection": "google",
            "identity_user_id": "104",
            "part": "user",
            "user_id": "google-oauth2|104",
            "strategy": "google-oauth2",
            "provider": "google-oauth2",
            "state": "active",
            "renewable": True,
            "generation": generation,
            "generations": generation,
            "family": 0,
            "access_key": access_key,
            "refresh_key": refresh_key,
            "token_type": "Bearer",
            "scope": "openid email",
            "issued_at": now,
            "expiry": "never" if life is None else "at",
            "expires_at": None if life is None else now + life,
            "logged_in_at": now,
            "rotated_before": False,
            "due_at": None if life is None else now + life * 3 / 4,
            "failures": 0,
            "fence": 0,
            "uncertain": False,
            "pull_fence": 0,
            "created_at": now,
        }
        sealed = {
            "access_token": self._sealed(tenant, grant, generation, "at", access_token, access_key),
            "refresh_token": self._sealed(
                tenant, grant, generation, "rt", refresh_token, refresh_key
            ),
        }
        known = {column.name for column in GrantRow.__table__.columns}
        row = {name: value for name, value in (values | sealed | columns).items() if name in known}
        with writing(self._engine) as connection:
            connection.execute(insert(GrantRow).values(row))
        return grant

    def renew(self, grant: GrantId, access_token: str, *, life: timedelta = HOUR) -> None:
        row, now = self.row(grant), self._clock.now()
        generation = row.generation + 1
        sealed = self._sealed(row.tenant, grant, generation, "at", access_token, row.access_key)
        self.set(
            grant,
            access_token=sealed,
            generation=generation,
            issued_at=now,
            renewed_at=now,
            expires_at=now + life,
            due_at=now + life * 3 / 4,
        )

    def add_candidate(
        self, grant: GrantId, refresh_token: str, *, why: str = "lost_fence", **columns: Any
    ) -> None:
        row = self.row(grant)
        generation = row.generation + 1000
        sealed = self._sealed(row.tenant, grant, generation, "rt", refresh_token, row.refresh_key)
        with writing(self._engine) as connection:
            connection.execute(
                insert(CandidateRow).values(
                    grant_id=grant,
                    generation=generation,
                    family=0,
                    rt_fp=refresh_token.encode(),
                    refresh_token=sealed,
                    issued_at=self._clock.now(),
                    why=why,
                    created_at=self._clock.now(),
                    **columns,
                )
            )

    def add_connection(self, name: str = "google", **columns: Any) -> None:
        values = {
            "tenant": "acme",
            "name": name,
            "strategy": "google-oauth2",
            "options": {},
            "options_seen": True,
            "fetched_at": self._clock.now(),
        }
        with writing(self._engine) as connection:
            connection.execute(insert(ConnectionRow).values(values | columns))

    def set(self, grant: GrantId, **columns: Any) -> None:
        with writing(self._engine) as connection:
            connection.execute(update(GrantRow).where(GrantRow.id == grant).values(**columns))

    def row(self, grant: GrantId) -> Any:
        table = GrantRow.__table__
        with reading(self._engine) as connection:
            return connection.execute(select(table).where(table.c.id == grant)).one()

    def _sealed(
        self,
        tenant: str,
        grant: GrantId,
        generation: int,
        kind: str,
        token: str | None,
        key: bytes,
    ) -> bytes | None:
        if token is None:
            return None
        return self._vault.seal(
            Secret(token), tenant=tenant, grant=grant, generation=generation, kind=kind, key=key
        )
