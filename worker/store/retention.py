"""Retention of the audit: the oldest part of each chain goes, and a signed cut says so.

A chain's last entry always stays, whatever its age: its writer reads it back to go on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Engine, Table, case, delete, func, select

from worker.domain.errors import TamperError
from worker.domain.ports import AuditRecord
from worker.store import audit
from worker.store.anchors import Sealer
from worker.store.audit import AuditLog, AuditProblem, Head
from worker.store.engine import reading, writing
from worker.store.tables import AuditCutRow, AuditRow
from worker.store.upsert import insert_into

_BATCH = 5_000  # sequence numbers a transaction
_audit = cast(Table, AuditRow.__table__)
_cuts = cast(Table, AuditCutRow.__table__)


@dataclass(frozen=True, slots=True)
class Pruned:
    chains: int
    entries: int


def check(engine: Engine, sealer: Sealer, anchored: Sequence[Head] = ()) -> list[AuditProblem]:
    """`audit.verify`, with the cuts that are ours taken for what they are."""
    cuts, forged = proven_cuts(engine, sealer)
    return forged + audit.verify(engine, anchored, cuts)


def proven_cuts(engine: Engine, sealer: Sealer) -> tuple[list[Head], list[AuditProblem]]:
    """Our cuts, and a problem for each that somebody else made up."""
    with reading(engine) as connection:
        rows = connection.execute(select(_cuts)).all()
    ours, forged = [], []
    for row in rows:
        cut = Head(row.chain, row.seq, row.hash)
        if sealer.authentic(_message(cut), row.tag):
            ours.append(cut)
        else:
            forged.append(AuditProblem(row.chain, row.seq, "a cut that we did not make"))
    return ours, forged


def prune(
    engine: Engine,
    sealer: Sealer,
    log: AuditLog,
    *,
    before: datetime,
    now: datetime,
    actor: str,
    anchored: Sequence[Head] = (),
) -> Pruned:
    """Drop entries older than `before`, after proving that the whole log is as it was written.

    Raises: TamperError naming what is wrong with it; nothing is dropped then, it is evidence.
    """
    if problems := check(engine, sealer, anchored):
        raise TamperError(f"nothing is pruned from a log that was changed: {problems[0]}")
    cuts = _old_parts(engine, before)
    with writing(engine) as connection:
        for cut in cuts:
            _sign(connection, cut, sealer.authenticate(_message(cut)), now)
        detail = {"chains": len(cuts), "before": before.isoformat()}
        record = AuditRecord(at=now, actor=actor, verb="audit_pruned", tenant="", detail=detail)
        log.append(connection, [record])
    return Pruned(len(cuts), sum(_drop(engine, cut) for cut in proven_cuts(engine, sealer)[0]))


def _old_parts(engine: Engine, before: datetime) -> list[Head]:
    """The last entry to go of each chain that has any."""
    young = func.min(case((_audit.c.at >= before, _audit.c.seq)))
    grouped = select(
        _audit.c.chain, func.coalesce(young, func.max(_audit.c.seq)).label("stays")
    ).group_by(_audit.c.chain)
    kept = grouped.subquery()
    ends = select(_audit.c.chain, _audit.c.seq, _audit.c.hash).join_from(
        kept, _audit, (_audit.c.chain == kept.c.chain) & (_audit.c.seq == kept.c.stays - 1)
    )
    with reading(engine) as connection:
        return [Head(row.chain, row.seq, row.hash) for row in connection.execute(ends)]


def _sign(connection: Connection, cut: Head, tag: bytes, now: datetime) -> None:
    values: dict[str, Any] = {"seq": cut.seq, "hash": cut.hash, "cut_at": now, "tag": tag}
    wanted = insert_into(connection, AuditCutRow).values(chain=cut.chain, **values)
    connection.execute(wanted.on_conflict_do_update(index_elements=["chain"], set_=values))


def _drop(engine: Engine, cut: Head) -> int:
    """Everything up to the cut, in short transactions; what a crash left is taken next time."""
    this = _audit.c.chain == cut.chain
    with reading(engine) as connection:
        first = connection.scalar(select(func.min(_audit.c.seq)).where(this))
    gone = 0
    for start in range(first or cut.seq + 1, cut.seq + 1, _BATCH):
        up_to = min(start + _BATCH - 1, cut.seq)
        with writing(engine) as connection:
            gone += connection.execute(delete(_audit).where(this, _audit.c.seq <= up_to)).rowcount
    return gone


def _message(cut: Head) -> bytes:
    entry = ["audit cut", cut.chain, cut.seq, cut.hash.hex()]
    return json.dumps(entry, separators=(",", ":")).encode()
