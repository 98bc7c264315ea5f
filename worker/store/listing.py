"""Grants as an operator lists them: by tenant, connection, user, state or provider; no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, select

from worker.store.engine import reading
from worker.store.tables import GrantRow


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLine:
    """One grant, in a line."""

    id: UUID
    tenant: str
    connection: str
    provider: str
    part: str
    user_id: str | None
    identity_user_id: str
    state: str
    reason: str | None
    withheld: str | None
    generation: int
    expires_at: datetime | None
    due_at: datetime | None
    failures: int
    last_error: str | None


_COLUMNS = [getattr(GrantRow, name) for name in GrantLine.__dataclass_fields__]


def list_grants(engine: Engine, *, limit: int, **wanted: str | None) -> Sequence[GrantLine]:
    """Those whose columns equal what is `wanted`, in the order of their keys.

    Args: wanted: `tenant`, `connection`, `user_id`, `state`, `provider`; None: any.
    """
    query = select(*_COLUMNS).order_by(
        GrantRow.tenant, GrantRow.connection, GrantRow.identity_user_id, GrantRow.part
    )
    for name, value in wanted.items():
        if value is not None:
            query = query.where(getattr(GrantRow, name) == value)
    with reading(engine) as connection:
        return [GrantLine(**row) for row in connection.execute(query.limit(limit)).mappings()]
