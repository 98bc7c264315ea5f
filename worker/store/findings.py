"""What is wrong with a connection at Auth0, and which grants a user or a connection has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update

from worker.domain.grant import GrantKey, GrantPart
from worker.domain.held import GONE
from worker.domain.merge import CLOCK_DOUBT
from worker.domain.ports import Notice
from worker.store.engine import reading, writing
from worker.store.filling import key_of
from worker.store.pulls import user_subject
from worker.store.tables import ConnectionRow, GrantRow, PullRow

AddNotices = Callable[[Connection, Sequence[Notice], datetime], None]

_UNTOLD = frozenset({"options_hidden"})  # one missing scope, seen at every connection: see doctor
_connections = ConnectionRow.__table__
_grants = GrantRow.__table__


class FindingRepository:
    """Codes on connections (`worker.sync.problems` explains them), and where grants point."""

    def __init__(self, engine: Engine, add_notices: AddNotices | None = None) -> None:
        self._engine = engine
        self._add_notices = add_notices

    def put(
        self,
        tenant: str,
        name: str,
        codes: frozenset[str],
        *,
        lasting: frozenset[str],
        now: datetime,
    ) -> frozenset[str]:
        """Replace what a connection suffers from; of `lasting`, what stands already stays.

        Returns: what is new. It is told to the operator in the same transaction.
        """
        with writing(self._engine) as connection:
            asked = select(ConnectionRow.problems).where(*_named(tenant, name)).with_for_update()
            had = frozenset((connection.execute(asked).scalar_one_or_none() or "").split())
            has = codes | (had & lasting)
            if has != had:
                _set_problems(connection, tenant, name, has)
            notices = [_notice(tenant, name, code, now) for code in sorted(has - had - _UNTOLD)]
            if self._add_notices is not None and notices:
                self._add_notices(connection, notices, now)
        return has - had

    def add(self, tenant: str, name: str, code: str, *, now: datetime) -> None:
        with reading(self._engine) as connection:
            asked = select(ConnectionRow.problems).where(*_named(tenant, name))
            had = (connection.execute(asked).scalar_one_or_none() or "").split()
        if code not in had:
            self.put(tenant, name, frozenset({*had, code}), lasting=frozenset(), now=now)

    def synced(
        self, tenant: str, name: str, code: str, *, failed: bool, at: datetime, now: datetime
    ) -> None:
        """A directory sync that ended `at` failed, or went well: `code` stands, or is gone.

        One that is older than the last heeded changes nothing: events come in any order.
        """
        asked = select(ConnectionRow.problems, ConnectionRow.synced_at)
        with writing(self._engine) as connection:
            row = connection.execute(asked.where(*_named(tenant, name)).with_for_update()).first()
            if row is None or (row.synced_at is not None and at < row.synced_at):
                return
            had = frozenset((row.problems or "").split())
            has = had | {code} if failed else had - {code}
            _set_problems(connection, tenant, name, has, synced_at=at)
            if failed and code not in had and self._add_notices is not None:
                self._add_notices(connection, [_notice(tenant, name, code, now)], now)

    def consented(
        self, tenant: str, name: str, mends: frozenset[str], *, now: datetime
    ) -> frozenset[str]:
        """An administrator's new tokens were read: returns which of `mends` are mended by them."""
        asked = select(ConnectionRow.problems).where(*_named(tenant, name)).with_for_update()
        with writing(self._engine) as connection:
            had = frozenset((connection.execute(asked).scalar_one_or_none() or "").split())
            _set_problems(connection, tenant, name, had - mends, synced_at=now)
        return had & mends

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

    def owner(self, tenant: str, connection: str, account: str) -> str | None:
        """The user whom a living grant of a provider's account points at.

        Auth0 puts the connection's name before the provider's id where strategies are many in one
        (`okta|acme|00u1`).
        """
        asked = select(GrantRow.user_id).where(
            GrantRow.tenant == tenant,
            GrantRow.connection == connection,
            GrantRow.identity_user_id.in_([account, f"{connection}|{account}"]),
            GrantRow.user_id.is_not(None),
            GrantRow.state.not_in([state.value for state in GONE]),
        )
        with reading(self._engine) as rows:
            return rows.execute(asked.limit(1)).scalar_one_or_none()

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

    def strangers(self, tenant: str, logins: Mapping[str, datetime]) -> Sequence[str]:
        """Of users who logged in at those times: whom we hold no grant of, and have not read since.

        A read a little before the login counts, for Auth0's clock and ours may differ.
        """
        held = select(GrantRow.user_id).where(
            GrantRow.tenant == tenant,
            GrantRow.user_id.in_(list(logins)),
            GrantRow.state.not_in([state.value for state in GONE]),
        )
        subjects = {user_subject(user_id): user_id for user_id in logins}
        pulled = select(PullRow.subject, PullRow.pulled_at).where(
            PullRow.tenant == tenant, PullRow.subject.in_(list(subjects))
        )
        with reading(self._engine) as connection:
            known = set(connection.execute(held).scalars())
            for row in connection.execute(pulled):
                user_id = subjects[row.subject]
                if row.pulled_at and row.pulled_at >= logins[user_id] - CLOCK_DOUBT:
                    known.add(user_id)
        return [user_id for user_id in logins if user_id not in known]

    def some_users(self, tenant: str, *, limit: int) -> Sequence[str]:
        """As `users`, at random. A scan."""
        users = select(GrantRow.user_id).where(
            GrantRow.tenant == tenant,
            GrantRow.user_id.is_not(None),
            GrantRow.state.not_in([state.value for state in GONE]),
        )
        named = users.distinct().subquery()
        asked = select(named.c.user_id).order_by(func.random()).limit(limit)
        with reading(self._engine) as connection:
            return list(connection.execute(asked).scalars())

    def _keys(self, *where: Any) -> list[GrantKey]:
        living = GrantRow.state.not_in([state.value for state in GONE])
        with reading(self._engine) as connection:
            rows = connection.execute(select(_grants).where(*where, living)).all()
        return [key_of(row) for row in rows]


def _set_problems(
    connection: Connection, tenant: str, name: str, codes: frozenset[str], **columns: Any
) -> None:
    told = " ".join(sorted(codes)) or None
    this = update(ConnectionRow).where(*_named(tenant, name))
    connection.execute(this.values(problems=told, **columns))


def _notice(tenant: str, name: str, code: str, now: datetime) -> Notice:
    return Notice(
        tenant=tenant,
        kind="consent_lost" if code == "consent_lost" else "connection_problem",
        episode=f"{code}:{name}:{now.isoformat()}",
        reason=f"{name}: {code}",
    )


def _named(tenant: str, name: str) -> tuple[Any, ...]:
    return ConnectionRow.tenant == tenant, ConnectionRow.name == name
