"""What is wrong with a connection at Auth0, and which grants a user or a connection has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, select, update

from worker.domain.grant import GrantKey, GrantPart
from worker.domain.held import GONE
from worker.store.engine import reading, writing
from worker.store.filling import key_of
from worker.store.tables import ConnectionRow, GrantRow

_connections = ConnectionRow.__table__
_grants = GrantRow.__table__


class FindingRepository:
    """Codes on connections (`worker.sync.problems` explains them), and where grants point."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(
        self, tenant: str, name: str, codes: frozenset[str], *, lasting: frozenset[str]
    ) -> frozenset[str]:
        """Replace what a connection suffers from; of `lasting`, what stands already stays.

        Returns: what is new.
        """
        with writing(self._engine) as connection:
            asked = select(ConnectionRow.problems).where(*_named(tenant, name)).with_for_update()
            had = frozenset((connection.execute(asked).scalar_one_or_none() or "").split())
            now = codes | (had & lasting)
            if now != had:
                told = " ".join(sorted(now)) or None
                connection.execute(
                    update(ConnectionRow).where(*_named(tenant, name)).values(problems=told)
                )
        return now - had

    def add(self, tenant: str, name: str, code: str) -> None:
        with reading(self._engine) as connection:
            asked = select(ConnectionRow.problems).where(*_named(tenant, name))
            had = (connection.execute(asked).scalar_one_or_none() or "").split()
        if code not in had:
            self.put(tenant, name, frozenset({*had, code}), lasting=frozenset())

    def clear(self, tenant: str, name: str) -> None:
        """An operator has seen to it; what is wrong still shows at the next read."""
        self.put(tenant, name, frozenset(), lasting=frozenset())

    def all(self, tenant: str) -> Mapping[str, Sequence[str]]:
        """Connection name to its codes, of those that have any."""
        asked = select(ConnectionRow.name, ConnectionRow.problems).where(
            ConnectionRow.tenant == tenant,
            ConnectionRow.problems.is_not(None),
            ConnectionRow.deleted_at.is_(None),
        )
        with reading(self._engine) as connection:
            return {row.name: row.problems.split() for row in connection.execute(asked)}

    def of_user(self, tenant: str, user_id: str) -> Sequence[GrantKey]:
        """The living grants that point at an Auth0 user."""
        return self._keys(GrantRow.tenant == tenant, GrantRow.user_id == user_id)

    def has_admin(self, tenant: str, name: str) -> bool:
        where = (
            GrantRow.tenant == tenant,
            GrantRow.connection == name,
            GrantRow.part == GrantPart.ADMIN.value,
        )
        return bool(self._keys(*where))

    def users(self, tenant: str, *, after: str, limit: int) -> Sequence[str]:
        """Auth0 users with living grants, in order, beginning after `after`."""
        asked = (
            select(GrantRow.user_id)
            .where(
                GrantRow.tenant == tenant,
                GrantRow.user_id > after,
                GrantRow.state.not_in([state.value for state in GONE]),
            )
            .distinct()
            .order_by(GrantRow.user_id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [user for user in connection.execute(asked).scalars() if user]

    def _keys(self, *where: Any) -> list[GrantKey]:
        living = GrantRow.state.not_in([state.value for state in GONE])
        with reading(self._engine) as connection:
            rows = connection.execute(select(_grants).where(*where, living)).all()
        return [key_of(row) for row in rows]


def _named(tenant: str, name: str) -> tuple[Any, ...]:
    return ConnectionRow.tenant == tenant, ConnectionRow.name == name
