"""Which grants a selection means, which end with them, what became of them. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, exists, or_, select

from worker.domain.burial import Concerned, Fate, Selection, Sibling
from worker.domain.grant import GrantId, GrantKey, GrantPart, GrantState
from worker.domain.held import GONE
from worker.store.engine import reading
from worker.store.tables import AuditRow, GrantRow

T = TypeVar("T")

_AT_ONCE = 500  # keys or ids in one statement

Peer = tuple[str, str]  # tenant and name of a connection


class ConcernedRepository:
    """For whoever has to know how far an end reaches before and after it is brought about."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def selected(self, selection: Selection) -> Sequence[Concerned]:
        """What is meant and not gone yet."""
        asked = select(*_CONCERNED).where(meant(selection), GrantRow.state.not_in(_GONE))
        with reading(self._engine) as connection:
            return [_concerned(row) for row in connection.execute(asked)]

    def knows(self, selection: Selection) -> bool:
        """Whether there is a grant of that name, those that are gone included."""
        with reading(self._engine) as connection:
            return bool(connection.scalar(select(exists().where(meant(selection)))))

    def siblings(
        self, of: Sequence[GrantKey], peers: Sequence[Peer], *, besides: Collection[GrantId]
    ) -> Sequence[Sibling]:
        """Living grants of the same accounts on connections of the same client.

        Auth0 keeps the provider's id of an account bare, or behind a connection's name and a bar.
        """
        accounts = sorted({_bare(key.identity_user_id) for key in of if key.part in _PEOPLE})
        found: list[Sibling] = []
        with reading(self._engine) as connection:
            for some in _in_parts(accounts):
                for tenant, name in peers:
                    rows = connection.execute(_living(tenant, name, some))
                    found += [_sibling(row) for row in rows if row.id not in besides]
        return found

    def followers(self, of: Collection[GrantId]) -> Sequence[Sibling]:
        """Living grants that have their refresh token from one of these (C18)."""
        found: list[Sibling] = []
        with reading(self._engine) as connection:
            for some in _in_parts(list(of)):
                living = (GrantRow.alias_of.in_(some), GrantRow.state.not_in(_GONE))
                asked = select(GrantRow.id, *_KEY, GrantRow.user_id).where(*living)
                found += [_sibling(row) for row in connection.execute(asked)]
        return [one for one in found if one.id not in of]

    def fates(self, grants: Sequence[GrantId]) -> Sequence[Fate]:
        """What has become of these; one that is purged is left out."""
        found: list[Fate] = []
        with reading(self._engine) as connection:
            for some in _in_parts(grants):
                found += _fates(connection, GrantRow.id.in_(some))
        return found

    def given_up_since(self, tenant: str, since: datetime) -> Sequence[Fate]:
        """Everything buried since then. A scan of the tenant's grants."""
        with reading(self._engine) as connection:
            return _fates(
                connection, and_(GrantRow.tenant == tenant, GrantRow.tombstoned_at >= since)
            )


def meant(selection: Selection) -> ColumnElement[bool]:
    """The condition that a selection is."""
    narrowed = and_(*_selected(selection))
    return or_(narrowed, GrantRow.id.in_(selection.also)) if selection.also else narrowed


_GONE = [state.value for state in GONE]
_PEOPLE = (GrantPart.USER, GrantPart.BOT)  # an administrator's grant has a connection for account
_KEY = (GrantRow.tenant, GrantRow.connection, GrantRow.identity_user_id, GrantRow.part)
_CONCERNED = (
    GrantRow.id,
    *_KEY,
    GrantRow.user_id,
    GrantRow.provider,
    GrantRow.renewable,
    GrantRow.state,
    GrantRow.alias_of,
    GrantRow.expires_at,
)
_FATE = (
    GrantRow.id,
    GrantRow.connection,
    GrantRow.provider,
    GrantRow.state,
    GrantRow.renewable,
    GrantRow.alias_of,
    GrantRow.renewed_at,
    GrantRow.last_error,
)


def _selected(selection: Selection) -> Iterator[ColumnElement[bool]]:
    yield GrantRow.tenant == selection.tenant
    if selection.grant is not None:
        yield GrantRow.id == selection.grant
    if selection.user_id is not None:
        yield GrantRow.user_id == selection.user_id
    if selection.connection is not None:
        yield GrantRow.connection == selection.connection
    if selection.handed_since is not None or selection.handed_to is not None:
        yield exists().where(*_handed(selection))


def _handed(selection: Selection) -> Iterator[ColumnElement[bool]]:
    yield and_(AuditRow.grant_id == GrantRow.id, AuditRow.verb == "token_read")
    if selection.handed_since is not None:
        yield AuditRow.at >= selection.handed_since
    if selection.handed_to is not None:
        yield AuditRow.actor == f"key:{selection.handed_to}"


def _living(tenant: str, name: str, accounts: Sequence[str]) -> Select[*tuple[Any, ...]]:
    """By the unique index of keys: one look for each account, whatever the size of the table."""
    spelt = [text for account in accounts for text in (account, f"{name}|{account}")]
    return select(GrantRow.id, *_KEY, GrantRow.user_id).where(
        GrantRow.tenant == tenant,
        GrantRow.connection == name,
        GrantRow.identity_user_id.in_(spelt),
        GrantRow.state.not_in(_GONE),
    )


def _in_parts(whole: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(whole), _AT_ONCE):
        yield whole[start : start + _AT_ONCE]


def _bare(account: str) -> str:
    return account.rpartition("|")[2]


def _fates(connection: Connection, which: ColumnElement[bool]) -> list[Fate]:
    rows = connection.execute(select(*_FATE).where(which)).all()
    said: dict[Any, list[dict[str, Any]]] = {}
    for some in _in_parts([row.id for row in rows]):
        told = select(AuditRow.grant_id, AuditRow.detail).where(
            AuditRow.grant_id.in_(some), AuditRow.verb == "revocation"
        )
        for entry in connection.execute(told.order_by(AuditRow.at)):
            said.setdefault(entry.grant_id, []).append(entry.detail or {})
    return [_fate(row, said.get(row.id, [])) for row in rows]


def _fate(row: Any, said: Sequence[dict[str, Any]]) -> Fate:
    places = [str(detail["by_hand"]) for detail in said if detail.get("by_hand")]
    return Fate(
        id=GrantId(row.id),
        connection=row.connection,
        provider=row.provider,
        state=GrantState(row.state),
        replaceable=row.renewable and row.alias_of is None,
        renewed_at=row.renewed_at,
        last_error=row.last_error,
        outcomes=[str(detail.get("outcome", "")) for detail in said],
        by_hand=places[-1] if places else "",
    )


def _concerned(row: Any) -> Concerned:
    replaceable = row.renewable and GrantState(row.state) is GrantState.ACTIVE
    return Concerned(
        id=GrantId(row.id),
        key=_key(row),
        user_id=row.user_id,
        provider=row.provider,
        renewable=replaceable and row.alias_of is None,
        alias_of=GrantId(row.alias_of) if row.alias_of else None,
        expires_at=row.expires_at,
    )


def _sibling(row: Any) -> Sibling:
    return Sibling(id=GrantId(row.id), key=_key(row), user_id=row.user_id)


def _key(row: Any) -> GrantKey:
    return GrantKey(
        tenant=row.tenant,
        connection=row.connection,
        identity_user_id=row.identity_user_id,
        part=GrantPart(row.part),
    )
