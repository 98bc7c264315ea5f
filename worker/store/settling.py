"""Writes how attempts ended: a group of them, with audit and notices, in one transaction.

What an attempt brought becomes current only while its fence and the fingerprint it spent still
match (I3, C12, C13). Everything else that holds a refresh token becomes a candidate, unless the
store has seen that very token already: then it is a repetition, and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Connection, Engine, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain.attempt import (
    Brought,
    Ending,
    Fate,
    LeftUncertain,
    Postponed,
    Refused,
    Settled,
)
from worker.domain.errors import TransientError
from worker.domain.grant import Fingerprint, GrantId, GrantState
from worker.domain.ports import AuditRecord, Clock, Notice
from worker.domain.verdict import after_refusal
from worker.store import candidates, seen, verdict_brake
from worker.store.claim_rows import FREE
from worker.store.engine import reading, writing
from worker.store.lineage import Lineage, expect, lineage_of, silent, unvouch, vouch
from worker.store.moving import move_group, move_one
from worker.store.sharing import following, holder_of
from worker.store.tables import CounterRow, GrantRow, SeenRefreshTokenRow

_GONE = (GrantState.TOMBSTONED, GrantState.REVOKING, GrantState.ERASED)


class Audit(Protocol):
    """The audit log, written inside the caller's transaction."""

    def append(self, connection: Connection, records: Sequence[AuditRecord]) -> object: ...


Tell = Callable[[Connection, Sequence[Notice], datetime], object]
"""Puts notices into the outbox, inside the caller's transaction."""


@dataclass(slots=True)
class _Group:
    """One transaction's work and what comes of it."""

    db: Connection
    now: datetime
    actor: str
    fates: dict[tuple[GrantId, int], Fate] = field(default_factory=dict)
    records: list[AuditRecord] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def record(self, verb: str, ending: Any, detail: dict[str, object]) -> None:
        self.records.append(
            AuditRecord(
                at=self.now,
                actor=self.actor,
                verb=verb,
                tenant=ending.tenant,
                grant=ending.grant,
                detail=detail,
            )
        )


class SettlingRepository:
    """The endings of one process's attempts, and of those it replays from journals."""

    def __init__(
        self,
        engine: Engine,
        *,
        node: str,
        process: str,
        clock: Clock,
        audit: Audit,
        tell: Tell,
        lineage: Lineage = lineage_of,
    ) -> None:
        self._lineage = lineage
        self._engine = engine
        self._node = node
        self._process = process
        self._actor = f"worker:{node}"
        self._clock = clock
        self._audit = audit
        self._tell = tell
        self._postgres = engine.dialect.name == "postgresql"
        self._insert: Any = postgresql.insert if self._postgres else sqlite.insert
        self._raise = (
            self._insert(CounterRow)
            .values(name=bindparam("name"), value=1)
            .on_conflict_do_update(
                index_elements=[CounterRow.name], set_={"value": CounterRow.value + 1}
            )
            .returning(CounterRow.value, func.now().label("now"))
        )

    def settle(self, endings: Sequence[Ending]) -> Settled:
        """Write a group; all of it commits or none.

        Raises: TransientError when the store is away or the commit's fate is unknown: settle the
            same group again. PermanentError when one of them cannot be written: settle each
            alone.
        """
        with writing(self._engine) as connection:
            now, counter = self._count(connection, endings)
            group = _Group(db=connection, now=now, actor=self._actor)
            self._write_brought(group, [e for e in endings if isinstance(e, Brought)])
            for ending in endings:
                if not isinstance(ending, Brought):
                    self._write_other(group, ending)
            candidates.reconsider(connection, endings, group.fates, group.now)
            self._audit.append(connection, group.records)
            self._tell(connection, group.notices, group.now)
        return Settled(fates=group.fates, counter=counter)

    def counter(self, process: str) -> int:
        """How many groups with rotated tokens the store remembers of a process of this node."""
        asked = select(CounterRow.value).where(CounterRow.name == self._name(process))
        with reading(self._engine) as connection:
            return connection.execute(asked).scalar_one_or_none() or 0

    def counted(self) -> set[str]:
        """Processes of this node whose groups with rotated tokens the store counts."""
        mine = self._name("")
        asked = select(CounterRow.name).where(CounterRow.name.startswith(mine, autoescape=True))
        with reading(self._engine) as connection:
            return {name.removeprefix(mine) for name in connection.execute(asked).scalars()}

    def uncount(self, processes: Iterable[str]) -> None:
        """Forget their counts: their journals, which alone could be compared with, are gone."""
        names = [self._name(process) for process in processes]
        with writing(self._engine) as connection:
            connection.execute(delete(CounterRow).where(CounterRow.name.in_(names)))

    def restore_counter(self, process: str, value: int) -> None:
        """What was lost has been brought back from the journals; a count never falls."""
        name = self._name(process)
        with writing(self._engine) as connection:
            restored = self._insert(CounterRow).values(name=name, value=value)
            connection.execute(
                restored.on_conflict_do_update(
                    index_elements=[CounterRow.name],
                    set_={"value": value},
                    where=CounterRow.value < value,
                )
            )

    def lineage(self) -> int:
        """Which history of the store this is (`worker.store.lineage`)."""
        with reading(self._engine) as connection:
            return self._lineage(connection)

    def silent(self, lineage: int) -> list[str]:
        """Who vouched for another history, and not for this one: "node:process"."""
        with reading(self._engine) as connection:
            return silent(connection, lineage)

    def vouch(
        self, lineage: int, *, gone: Iterable[str] = (), beside: Iterable[str] = ()
    ) -> list[str]:
        """This process and the `gone` ones of its node lack nothing here; who has not said so yet:
        of those who knew another history, and of the processes `beside` it, which live.

        One transaction: as long as one of a node is silent, all others wait, and when the last of
        those that are known is not any more, its neighbours are known too.
        Raises: TransientError.
        """
        with writing(self._engine) as connection:
            if self._lineage(connection) != lineage:
                raise TransientError("store: another history", code="another_history")
            unvouch(connection, *map(self._of_node, gone))
            vouch(connection, self._of_node(self._process), lineage)
            expect(connection, *map(self._of_node, beside))
            return sorted(silent(connection, lineage))

    def unvouch(self, *processes: str) -> None:
        """These processes of this node are gone, and have left nothing."""
        with writing(self._engine) as connection:
            unvouch(connection, *map(self._of_node, processes))

    def forget(self, silent: Iterable[str]) -> None:
        """They did not come back; whatever they hold is late."""
        with writing(self._engine) as connection:
            unvouch(connection, *silent)

    def _of_node(self, process: str) -> str:
        return f"{self._node}:{process}"

    def _name(self, process: str) -> str:
        return f"rotated:{self._node}:{process}"

    def _now(self, connection: Connection) -> datetime:
        if not self._postgres:
            return self._clock.now()
        now: datetime = connection.execute(select(func.now())).scalar_one()
        return now.astimezone(UTC)

    def _write_brought(self, group: _Group, brought: Sequence[Brought]) -> None:
        """The usual case takes one statement; what it does not touch is looked at one by one."""
        fit = [one for one in brought if one.read]
        moved = self._move_current(group, fit) if fit else set()
        applied = [one for one in fit if (one.grant, one.fence) in moved]
        for one in applied:
            group.fates[one.grant, one.fence] = Fate.APPLIED
            group.notices.extend(one.notices)
        if applied:
            group.records.extend(_renewed_records(applied, group.now, self._actor))
            verdict_brake.release(group.db, [one for one in applied if one.healed])
        for one in brought:
            if (one.grant, one.fence) not in moved:
                group.fates[one.grant, one.fence] = self._keep(group, one)

    def _move_current(self, group: _Group, fit: Sequence[Brought]) -> set[tuple[GrantId, int]]:
        holder = _holder(group.db, fit[0]) if len(fit) == 1 else None
        if holder is None and self._postgres:
            return move_group(group.db, fit, group.now)
        if holder is not None:
            moved = _alias(group.db, fit[0], holder, group.now)
        else:
            moved = {(b.grant, b.fence) for b in fit if move_one(group.db, b, group.now)}
        self._remember(group, [one for one in fit if (one.grant, one.fence) in moved])
        return moved

    def _remember(self, group: _Group, brought: Iterable[Brought]) -> None:
        """From now on these refresh tokens are never news (M2)."""
        self._never_news(group, [(b.grant, b.rt_fp) for b in brought if b.rotated])

    def _never_news(
        self, group: _Group, tokens: Iterable[tuple[GrantId, Fingerprint | None]]
    ) -> None:
        rows = [seen.remembered(grant, fp, group.now) for grant, fp in tokens if fp is not None]
        if rows:
            group.db.execute(self._insert(SeenRefreshTokenRow).on_conflict_do_nothing(), rows)

    def _keep(self, group: _Group, one: Brought) -> Fate:
        """What came too late, or was no renewal: a refresh token in it is not lost."""
        row = _locked(group.db, one.grant)
        if row is None or row.access_key is None:
            return Fate.GONE
        if not one.rotated:
            return Fate.LATE
        if row.rt_fp == one.rt_fp:
            return Fate.REPEATED
        if seen.holds(group.db, one.grant, one.rt_fp):
            candidates.bridge(group.db, one)
            return Fate.REPEATED
        gone = row.state in _GONE
        why = "tombstoned" if gone else one.aside or ("lost_fence" if one.read else "unread")
        # its parent too: a store that lost its last commits may know nothing of that any more
        self._never_news(group, [(one.grant, one.rt_fp), (one.grant, one.parent_fp)])
        candidates.keep(group.db, one, why, group.now, held_by=_holder(group.db, one))
        group.record("candidate_kept", one, {"why": why, "fence": one.fence})
        if gone and row.attempt == one.attempt:
            group.db.execute(update(GrantRow).where(GrantRow.id == one.grant).values(FREE))
        return Fate.GONE if gone else Fate.CANDIDATE

    def _write_other(self, group: _Group, ending: Postponed | LeftUncertain | Refused) -> None:
        key = (ending.grant, ending.fence)
        if isinstance(ending, Refused):
            group.fates[key] = self._write_refused(group, ending)
            return
        values: dict[Any, Any] = {
            GrantRow.due_at: ending.due_at,
            GrantRow.failures: ending.failures,
            GrantRow.last_error: ending.code,
        }
        if isinstance(ending, LeftUncertain):
            values |= {GrantRow.uncertain: True, GrantRow.lease_until: group.now}
        else:
            values |= FREE
            group.notices.extend(ending.notices)
            if ending.unrenewable:
                values |= {GrantRow.renewable: False, GrantRow.reason: ending.code}
            if ending.parked:
                values[GrantRow.reason] = ending.code
        changed = group.db.execute(_held_by(ending).values(values))
        if isinstance(ending, Postponed) and ending.unreadable and changed.rowcount:
            for notice in ending.notices:
                group.record("unreadable", notice, {"code": ending.code})
        group.fates[key] = Fate.APPLIED if changed.rowcount else Fate.LATE

    def _write_refused(self, group: _Group, refused: Refused) -> Fate:
        row = _locked(group.db, refused.grant)
        if row is None or row.attempt != refused.attempt or row.fence != refused.fence:
            return Fate.LATE
        unresolved = refused.unresolved_until is not None and refused.unresolved_until > group.now
        braked = refused.final and verdict_brake.is_on(group.db, refused, group.now)
        waiting = candidates.newest(
            group.db,
            refused.grant,
            parents=refused.parents_live,
            lesser=refused.final and not unresolved and not braked,
        )
        fate = after_refusal(
            final=refused.final,
            unresolved=unresolved,
            candidate_waits=waiting is not None,
            braked=braked,
        )
        latest = candidates.refused_before(group.db, row) if waiting is None else None
        # Where the current one has renewed since, it was alive later: that one is asked last.
        renewed_since = latest is not None and latest.spent_at < row.issued_at
        if latest is not None and (not renewed_since or fate is Fate.NEEDS_REAUTH):
            fate = Fate.SUSPECT
            candidates.return_to(group.db, row, latest, refused.retry_at, group.now)
            group.notices.extend(verdict_brake.count(group.db, refused, group.now))
            group.record("refused", refused, {"code": refused.code, "then": fate.value})
            return fate
        group.record("refused", refused, {"code": refused.code, "then": fate.value})
        if fate is Fate.NEXT_CANDIDATE:
            candidates.replace_refused(group.db, row, waiting, group.now)
            return fate
        values = FREE | _after(fate, refused, row)
        group.db.execute(update(GrantRow).where(GrantRow.id == refused.grant).values(values))
        if fate is Fate.NEEDS_REAUTH:
            group.notices.append(refused.notice)
        elif fate is Fate.SUSPECT and row.suspect_since is None:
            group.notices.extend(verdict_brake.count(group.db, refused, group.now))
        return fate

    def _count(self, db: Connection, endings: Sequence[Ending]) -> tuple[datetime, int | None]:
        """The store's time; and this process's counter, raised for a group with rotated tokens: a
        store that later shows less has lost commits (I24)."""
        if not any(isinstance(one, Brought) and one.rotated for one in endings):
            return self._now(db), None
        raised = db.execute(self._raise, {"name": self._name(self._process)}).one()
        now = raised.now.astimezone(UTC) if self._postgres else self._clock.now()
        return now, raised.value


def _after(fate: Fate, refused: Refused, row: Any) -> dict[Any, Any]:
    """The columns of a refused grant that has nothing else to try."""
    values: dict[Any, Any] = {
        GrantRow.last_error: refused.code,
        GrantRow.failures: row.failures + 1,
    }
    if fate is Fate.NEEDS_REAUTH:
        state = GrantState.NEEDS_REAUTH.value
        return values | {
            GrantRow.state: state,
            GrantRow.reason: refused.code,
            GrantRow.due_at: None,
        }
    return values | {
        GrantRow.state: GrantState.SUSPECT.value,
        GrantRow.reason: refused.code,
        GrantRow.suspect_since: row.suspect_since or refused.at,
        GrantRow.due_at: max(refused.retry_at, refused.unresolved_until or refused.retry_at),
    }


def _held_by(ending: Postponed | LeftUncertain) -> Any:
    return update(GrantRow).where(
        GrantRow.id == ending.grant,
        GrantRow.attempt == ending.attempt,
        GrantRow.fence == ending.fence,
    )


def _locked(db: Connection, grant: GrantId) -> Any:
    asked = select(GrantRow.__table__).where(GrantRow.id == grant).with_for_update()
    return db.execute(asked).one_or_none()


def _holder(db: Connection, one: Brought) -> UUID | None:
    """Another grant that holds the very refresh token that came (C18)."""
    return holder_of(db, one.rt_fp, but=one.grant) if one.rotated else None


def _alias(db: Connection, one: Brought, holder: UUID, now: datetime) -> set[tuple[GrantId, int]]:
    """Two consents got one refresh token: this grant stops spending it and names the other."""
    moved = move_one(db, one, now, following(holder))
    return {(one.grant, one.fence)} if moved else set()


def _renewed_records(applied: Sequence[Brought], now: datetime, actor: str) -> list[AuditRecord]:
    """One audit entry per tenant and group; a hash per grant would cost more than it tells."""
    by_tenant: dict[str, list[Brought]] = {}
    for one in applied:
        by_tenant.setdefault(one.tenant, []).append(one)
    return [
        AuditRecord(
            at=now,
            actor=actor,
            verb="renewed",
            tenant=tenant,
            grant=ones[0].grant if len(ones) == 1 else None,
            detail={"grants": [[str(b.grant), b.generation, b.fence] for b in ones]},
        )
        for tenant, ones in by_tenant.items()
    ]
