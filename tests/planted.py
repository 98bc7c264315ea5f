"""Grants planted straight into the store, as a pull would have left them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, insert, select, update

from worker.domain.grant import ExpiryKind, GrantId, GrantPart, GrantState
from worker.domain.ports import Vault
from worker.domain.secret import Secret
from worker.store.engine import reading, writing
from worker.store.tables import CandidateRow, ConnectionRow, GrantRow, SeenRefreshTokenRow

HOUR = timedelta(hours=1)


def plant(
    engine: Engine,
    vault: Vault,
    *,
    now: datetime,
    rt: str | None = "r0",
    at: str = "a0",
    tenant: str = "acme",
    connection: str = "google-oauth2",
    provider: str = "google-oauth2",
    identity: str | None = None,
    grant: GrantId | None = None,
    life: timedelta = HOUR,
    age: timedelta = timedelta(minutes=50),
    **columns: Any,
) -> GrantId:
    """A grant `age` old whose access token lives for `life`; due now unless `due_at` is given."""
    grant = grant or GrantId(uuid4())
    access_key, refresh_key = vault.new_keys(tenant, grant)
    issued_at = now - age
    rt_fp = vault.fingerprint(Secret(rt)) if rt else None

    def seal(text: str, kind: str, key: bytes) -> bytes:
        return vault.seal(
            Secret(text), tenant=tenant, grant=grant, generation=0, kind=kind, key=key
        )

    row = {
        "id": grant,
        "tenant": tenant,
        "connection": connection,
        "identity_user_id": identity or str(grant),
        "part": GrantPart.USER.value,
        "user_id": f"{connection}|{identity or grant}",
        "strategy": provider,
        "provider": provider,
        "state": GrantState.ACTIVE.value,
        "renewable": True,
        "generation": 0,
        "family": 0,
        "access_token": seal(at, "at", access_key),
        "refresh_token": seal(rt, "rt", refresh_key) if rt else None,
        "access_key": access_key,
        "refresh_key": refresh_key,
        "at_fp": vault.fingerprint(Secret(at)),
        "rt_fp": rt_fp,
        "token_type": "Bearer",
        "issued_at": issued_at,
        "expiry": ExpiryKind.AT.value,
        "expires_at": issued_at + life,
        "logged_in_at": issued_at,
        "rotated_before": False,
        "due_at": now,
        "failures": 0,
        "fence": 0,
        "uncertain": False,
        "pull_fence": 0,
        "created_at": issued_at,
    } | columns
    with writing(engine) as db:
        db.execute(insert(GrantRow).values(**row))
        if rt_fp is not None:
            seen = {"grant_id": grant, "fp": rt_fp, "generation": 0, "seen_at": now}
            db.execute(insert(SeenRefreshTokenRow).values(**seen))
    return grant


def plant_connection(
    engine: Engine, *, tenant: str = "acme", name: str = "google-oauth2", **columns: Any
) -> None:
    row = {
        "tenant": tenant,
        "name": name,
        "strategy": name,
        "client_id": "client-1",
        "options": {},
        "options_seen": True,
        "fetched_at": datetime(2026, 1, 1, tzinfo=UTC),
    } | columns
    with writing(engine) as db:
        db.execute(insert(ConnectionRow).values(**row))


def row_of(engine: Engine, grant: GrantId) -> Any:
    with reading(engine) as db:
        return db.execute(select(GrantRow.__table__).where(GrantRow.id == grant)).one()


def candidates_of(engine: Engine, grant: GrantId) -> list[Any]:
    with reading(engine) as db:
        asked = select(CandidateRow.__table__).where(CandidateRow.grant_id == grant)
        return list(db.execute(asked.order_by(CandidateRow.id)))


def opened(engine: Engine, vault: Vault, grant: GrantId, kind: str = "rt") -> str:
    """The current refresh ("rt") or access ("at") token in the clear."""
    row = row_of(engine, grant)
    sealed, key = (
        (row.refresh_token, row.refresh_key) if kind == "rt" else (row.access_token, row.access_key)
    )
    return vault.open(
        sealed, tenant=row.tenant, grant=grant, generation=row.generation, kind=kind, key=key
    ).text()


def keep_candidate(
    engine: Engine, vault: Vault, grant: GrantId, *, rt: str, why: str, now: datetime
) -> None:
    """A refresh token kept beside the current one."""
    row = row_of(engine, grant)
    generation = row.last_generation + 1
    sealed = vault.seal(
        Secret(rt),
        tenant=row.tenant,
        grant=grant,
        generation=generation,
        kind="rt",
        key=row.refresh_key,
    )
    candidate = {
        "grant_id": grant,
        "generation": generation,
        "family": row.family + (why == "login"),
        "rt_fp": vault.fingerprint(Secret(rt)),
        "refresh_token": sealed,
        "issued_at": now,
        "why": why,
        "created_at": now,
    }
    with writing(engine) as db:
        db.execute(insert(CandidateRow).values(**candidate))
        db.execute(update(GrantRow).where(GrantRow.id == grant).values(last_generation=generation))
