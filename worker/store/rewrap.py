"""Moves every data key and sealed secret under today's primaries, while everything else runs.

Only the wrapping changes: the data key inside a wrapped key stays, so tokens, candidates and
journals need no touch, and a renewal under way does not notice. Each batch is a short transaction
of its own; stopped half-way, the next run goes on where this one ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Engine, func, or_, select, update

from worker.domain.errors import ConfigurationError
from worker.domain.grant import GrantId
from worker.store.connections import scope_of as connection_scope
from worker.store.engine import reading, writing
from worker.store.tables import ConnectionRow, GrantRow, TenantRow
from worker.store.tenants import scope_of as tenant_scope
from worker.store.whose import EVERYBODY, Whose

_SAMPLE = 500  # grants
_PASSES = 5  # rows locked by a renewal are passed over, and met again in the next pass


class Rewrapper(Protocol):
    """The vault of one keyring, as far as moving keys needs it."""

    def primaries(self) -> frozenset[str]: ...

    def rewrap(self, wrapped: bytes, *, tenant: str, grant: GrantId) -> bytes: ...

    def reseal_config(self, sealed: bytes, *, tenant: str, scope: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Progress:
    moved: int
    left: int  # as counted when the run began, less what was moved


def references(engine: Engine, whose: Whose = EVERYBODY) -> Counter[str]:
    """Key id to the number of live ciphertexts that need it: what `Keyring.destroy` asks for.

    Journals hold none: their tokens are sealed under the data keys of the grants' rows.
    """
    found: Counter[str] = Counter()
    with reading(engine) as connection:
        for column in _SEALED:
            counted = select(_key_id(column).label("id"), func.count()).where(
                column.is_not(None), whose.of(column.class_.tenant)
            )
            for key_id, count in connection.execute(counted.group_by("id")):
                found[bytes(key_id).hex()] += count
    return found


def refuse_if_referenced(engine: Engine, key_id: str, whose: Whose = EVERYBODY) -> None:
    """Raises: ConfigurationError when destroying the key would make something unreadable (I23)."""
    if count := references(engine, whose)[key_id]:
        raise ConfigurationError(
            f"key {key_id} still holds {count} ciphertexts; run the rewrap first",
            code="key_referenced",
        )


def unreadable(
    engine: Engine, keyring: Collection[str], whose: Whose = EVERYBODY
) -> dict[str, int]:
    """Key ids that ciphertexts need and `keyring` lacks, with their number: the wrong keyring.

    Args:
        keyring: ids of the keys that are there and not disabled.
    """
    needed = references(engine, whose)
    return {key: count for key, count in needed.items() if key not in keyring}


def belongs(engine: Engine, keyring: Collection[str], whose: Whose = EVERYBODY) -> bool:
    """Whether a keyring is this store's: it has some of the keys that a sample of grants needs.

    Quick whatever the store's size, so that every start can ask; `unreadable` is exact.
    """
    keys = select(GrantRow.access_key, GrantRow.refresh_key)
    sample = keys.where(whose.of(GrantRow.tenant)).limit(_SAMPLE)
    with reading(engine) as connection:
        rows = connection.execute(sample).all()
    needed = {wrapped[1:5].hex() for row in rows for wrapped in row if wrapped}
    return not needed or not needed.isdisjoint(keyring)


def rewrap(
    engine: Engine,
    vault: Rewrapper,
    *,
    whose: Whose = EVERYBODY,
    batch: int = 200,
    told: Callable[[Progress], None] | None = None,
) -> Progress:
    """Move everything of one keyring; `told` hears of every batch. What is left could not be
    locked: run again.

    Args:
        whose: the tenants that use the keyring of `vault`.
    Raises: TamperError naming a grant whose wrapped key does not open; the others before it are
        moved.
    """
    begun = _left(engine, vault, whose)
    moved = _secrets(engine, vault, whose)
    for _ in range(_PASSES):
        after: UUID | None = None
        while page := _grants(engine, vault, whose, after, batch):
            after, changed = page
            moved += changed
            if told and changed:
                told(Progress(moved, max(0, begun - moved)))
        if not (left := _left(engine, vault, whose)):
            break
    return Progress(moved, left)


def _grants(
    engine: Engine, vault: Rewrapper, whose: Whose, after: UUID | None, batch: int
) -> tuple[UUID, int] | None:
    """One batch beyond `after`: the last id in it and how many were moved; None: no more.

    Locked rows are skipped, so this never waits for a renewal and no renewal for a chain of us.
    """
    old = or_(_old(GrantRow.access_key, vault), _old(GrantRow.refresh_key, vault))
    wanted = (
        select(GrantRow.id, GrantRow.tenant, GrantRow.access_key, GrantRow.refresh_key)
        .where(old, whose.of(GrantRow.tenant), *([GrantRow.id > after] if after else []))
        .order_by(GrantRow.id)
        .limit(batch)
        .with_for_update(skip_locked=True)
    )
    with writing(engine) as connection:
        rows = connection.execute(wanted).all()
        for row in rows:
            values = {
                name: vault.rewrap(wrapped, tenant=row.tenant, grant=GrantId(row.id))
                for name, wrapped in (
                    ("access_key", row.access_key),
                    ("refresh_key", row.refresh_key),
                )
                if wrapped is not None
            }
            connection.execute(update(GrantRow).where(GrantRow.id == row.id).values(values))
    return (rows[-1].id, len(rows)) if rows else None


def _secrets(engine: Engine, vault: Rewrapper, whose: Whose) -> int:
    """Connections and tenants are few: one transaction each kind."""
    with writing(engine) as connection:
        return _connections(connection, vault, whose) + _tenants(connection, vault, whose)


def _connections(connection: Connection, vault: Rewrapper, whose: Whose) -> int:
    table = ConnectionRow.__table__
    rows = _waiting(connection, table, table.c.secrets, vault, whose)
    for row in rows:
        scope = connection_scope(row.tenant, row.name)
        sealed = vault.reseal_config(row.secrets, tenant=row.tenant, scope=scope)
        this = (table.c.tenant == row.tenant, table.c.name == row.name)
        connection.execute(update(ConnectionRow).where(*this).values(secrets=sealed))
    return len(rows)


def _tenants(connection: Connection, vault: Rewrapper, whose: Whose) -> int:
    table = TenantRow.__table__
    rows = _waiting(connection, table, table.c.api_token, vault, whose)
    for row in rows:
        scope = tenant_scope(row.tenant)
        sealed = vault.reseal_config(row.api_token, tenant=row.tenant, scope=scope)
        this = table.c.tenant == row.tenant
        connection.execute(update(TenantRow).where(this).values(api_token=sealed))
    return len(rows)


def _waiting(
    connection: Connection, table: Any, column: ColumnElement[Any], vault: Rewrapper, whose: Whose
) -> Sequence[Any]:
    waiting = select(table).where(_old(column, vault), whose.of(table.c.tenant))
    return connection.execute(waiting.with_for_update()).all()


def _left(engine: Engine, vault: Rewrapper, whose: Whose) -> int:
    """How many rows still name a key that is no primary."""
    old = or_(_old(GrantRow.access_key, vault), _old(GrantRow.refresh_key, vault))
    places = (
        (GrantRow, old),
        (ConnectionRow, _old(ConnectionRow.secrets, vault)),
        (TenantRow, _old(TenantRow.api_token, vault)),
    )
    with reading(engine) as connection:
        counts = [
            select(func.count()).select_from(table).where(old, whose.of(table.tenant))
            for table, old in places
        ]
        return sum(connection.scalar(count) or 0 for count in counts)


_SEALED = (
    GrantRow.access_key,
    GrantRow.refresh_key,
    ConnectionRow.secrets,
    TenantRow.api_token,
)


def _key_id(column: Any) -> Any:
    """Bytes 2 to 5 of a wrapped key or sealed secret name its key (`worker.vault.aes`)."""
    return func.substr(column, 2, 4)


def _old(column: Any, vault: Rewrapper) -> ColumnElement[bool]:
    current = [bytes.fromhex(key_id) for key_id in sorted(vault.primaries())]
    old: ColumnElement[bool] = column.is_not(None) & _key_id(column).not_in(current)
    return old
