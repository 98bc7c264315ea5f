"""Writes down what answers taught: ends of tokens, ages at refusal, providers that changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update

from worker.domain.grant import ExpiryKind, GrantId, GrantKey, GrantState
from worker.domain.held import GONE
from worker.domain.learned import Change, with_report
from worker.domain.ports import Notice
from worker.store.engine import reading, writing
from worker.store.tables import ConnectionRow, GrantRow

Tell = Callable[[Connection, Sequence[Notice], datetime], object]
_SAYS = {
    Change.ROTATES: "is declared to keep its refresh tokens, but answered with new ones",
    Change.KEEPS: "is declared to replace its refresh tokens, but answered without a new one",
}


class LearningRepository:
    """Synchronous. Raises everywhere: TransientError, the store is away."""

    def __init__(self, engine: Engine, *, tell: Tell) -> None:
        self._engine = engine
        self._tell = tell

    def end_told(
        self, grant: GrantId, *, generation: int, expires_at: datetime, due_at: datetime | None
    ) -> bool:
        """The end of an access token whose answer told none; False: it is not current any more."""
        told = (
            update(GrantRow)
            .where(
                GrantRow.id == grant,
                GrantRow.generation == generation,
                GrantRow.expiry == ExpiryKind.UNTOLD.value,
                GrantRow.state == GrantState.ACTIVE.value,
                GrantRow.attempt.is_(None),
            )
            .values(expiry=ExpiryKind.AT.value, expires_at=expires_at, due_at=due_at)
        )
        with writing(self._engine) as db:
            return bool(db.execute(told).rowcount)

    def base_told(self, grant: GrantId, base: str) -> bool:
        """Where the provider's API is for this account; it hardly ever changes."""
        told = (
            update(GrantRow)
            .where(
                GrantRow.id == grant,
                GrantRow.tombstoned_at.is_(None),
                GrantRow.api_base.is_distinct_from(base),
            )
            .values(api_base=base)
        )
        with writing(self._engine) as db:
            return bool(db.execute(told).rowcount)

    def refused(self, key: GrantKey, grant: GrantId, *, age: float) -> None:
        """The provider refused an access token of that age in seconds, and renewed it then."""
        with writing(self._engine) as db:
            learned = _locked(db, key)
            if learned is not None:
                reports = with_report(learned.get("refused", {}), str(grant), round(age, 1))
                _write(db, key, {**learned, "refused": reports})

    def changed(self, key: GrantKey, entry: str, change: Change, now: datetime) -> bool:
        """A provider treats refresh tokens otherwise than its entry says; True: that is news.

        Told once per connection and entry, with how many grants have shown it so far.
        """
        with writing(self._engine) as db:
            learned = _locked(db, key)
            if learned is None or entry in learned.get(change, {}):
                return False
            since = {**learned.get(change, {}), entry: now.isoformat(timespec="seconds")}
            _write(db, key, {**learned, change.value: since})
            counts = _counts(db, key.tenant, key.connection, entry, change)
            notice = Notice(
                tenant=key.tenant,
                kind="provider_changed",
                episode=f"provider_changed:{key.connection}:{entry}:{change}",
                reason=f"{key.connection}: {entry} {_SAYS[change]} ({counts})",
            )
            self._tell(db, [notice], now)
        return True

    def changes(self, tenant: str) -> dict[str, list[str]]:
        """Connection name to a sentence for each change noticed on it, with today's counts."""
        asked = select(ConnectionRow.name, ConnectionRow.learned).where(
            ConnectionRow.tenant == tenant, ConnectionRow.deleted_at.is_(None)
        )
        told: dict[str, list[str]] = {}
        with reading(self._engine) as db:
            for name, learned in db.execute(asked).all():
                for change in Change:
                    for entry, since in (learned or {}).get(change, {}).items():
                        counts = _counts(db, tenant, name, entry, change)
                        told.setdefault(name, []).append(
                            f"{entry} {_SAYS[change]} ({counts}), first seen {since[:10]}"
                        )
        return told


def _locked(db: Connection, key: GrantKey) -> dict[str, Any] | None:
    asked = select(ConnectionRow.learned).where(*_named(key)).with_for_update()
    row = db.execute(asked).one_or_none()
    return None if row is None else dict(row.learned or {})


def _write(db: Connection, key: GrantKey, learned: dict[str, Any]) -> None:
    db.execute(update(ConnectionRow).where(*_named(key)).values(learned=learned))


def _named(key: GrantKey) -> tuple[Any, Any]:
    return ConnectionRow.tenant == key.tenant, ConnectionRow.name == key.connection


def _counts(db: Connection, tenant: str, connection: str, entry: str, change: Change) -> str:
    """How many grants of an entry there are on a connection, and how many show the change."""
    mine = (
        GrantRow.tenant == tenant,
        GrantRow.connection == connection,
        GrantRow.provider == entry,
        GrantRow.state.not_in(GONE),
    )
    grants = db.execute(select(func.count()).where(*mine)).scalar_one()
    if change is not Change.ROTATES:
        return f"of {grants} grants"
    asked = select(func.count()).where(*mine, GrantRow.rotated_before)
    return f"{db.execute(asked).scalar_one()} of {grants} grants so far"
