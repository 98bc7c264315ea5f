"""The audit log: who did what to which grant, in chains that show every later change.

An entry's hash covers the entry and the hash before it. Each process and thread writes a chain of
its own, so none waits for another. A chain whose entries were all rewritten is still a chain:
that is what the anchors are for (`worker.store.anchors`).
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Engine, Row, bindparam, func, insert, select

from worker.domain.errors import TransientError
from worker.domain.ports import AuditRecord
from worker.store import arrays
from worker.store.engine import reading
from worker.store.tables import AuditRow
from worker.store.types import to_micros

GENESIS = bytes(32)  # what the first entry of a chain is hashed upon
_BATCH = 2000  # rows read at a time when verifying


class AuditLog:
    """Appends to this thread's chain."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._of_thread = threading.local()

    def append(self, connection: Connection, records: Sequence[AuditRecord]) -> None:
        """Write `records` within the caller's transaction: no audit, no change (I19).

        The end that is remembered is a guess, for the transaction before this one may have been
        rolled back, or may not have told how it ended: only what fits the chain is written.
        """
        if not records:
            return
        end = self._end()
        rows = _chained(end, records)
        if not _write(connection, rows, after=end):
            end = _end_of(connection, end.chain)
            rows = _chained(end, records)
            if not _write(connection, rows, after=end):  # a lost connection's commit came through
                raise TransientError("store: the audit chain has just grown", code="store_away")
        self._of_thread.end = Head(end.chain, rows[-1]["seq"], rows[-1]["hash"])

    def _end(self) -> Head:
        """The chain is named on first use; a fork leaves the parent's to the parent."""
        if getattr(self._of_thread, "process", None) != (process := os.getpid()):
            self._of_thread.process = process
            name = f"{self._node}/{process}/{secrets.token_hex(6)}"
            self._of_thread.end = Head(name, 0, GENESIS)
        end: Head = self._of_thread.end
        return end


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain."""

    chain: str
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class AuditProblem:
    """One place where the log is not what we wrote."""

    chain: str
    seq: int
    what: str

    def __str__(self) -> str:
        return f"{self.chain} entry {self.seq}: {self.what}"


def verify(
    engine: Engine, anchored: Sequence[Head] = (), cuts: Sequence[Head] = ()
) -> list[AuditProblem]:
    """Read the whole log and name each edit, removal, insertion and reordering.

    Args:
        anchored: heads noted outside the database; below them, rewriting and truncation show too.
        cuts: where we ourselves ended chains from below, proven (`worker.store.retention`).
    """
    begins = {cut.chain: cut for cut in cuts}
    marks = {
        (head.chain, head.seq): head.hash
        for head in anchored
        if head.chain not in begins or head.seq > begins[head.chain].seq
    }
    problems: list[AuditProblem] = []
    begin = Head("", 0, GENESIS)
    chain, seq, previous = begin.chain, begin.seq, begin.hash
    for row in _entries(engine):
        if row.chain != chain:
            begin = begins.get(row.chain, Head(row.chain, 0, GENESIS))
            chain, seq, previous = row.chain, begin.seq, begin.hash
        if row.seq <= begin.seq:
            continue  # condemned: the cut came first, its rows go in batches
        problems.extend(_check(row, seq, previous, marks.pop((chain, row.seq), None)))
        seq, previous = row.seq, row.hash
    missing = [AuditProblem(chain, seq, "anchored, but gone") for chain, seq in marks]
    return problems + sorted(missing, key=str)


def heads(engine: Engine) -> list[Head]:
    """Where every chain ends now. Hops from chain to chain, however long they are."""
    table, found = AuditRow.__table__, AuditRow.__table__.alias("found")
    chains = select(func.min(table.c.chain).label("chain")).cte("chains", recursive=True)
    later = select(func.min(found.c.chain)).where(found.c.chain > chains.c.chain)
    hop = select(later.correlate(chains).scalar_subquery()).where(chains.c.chain.is_not(None))
    chains = chains.union_all(hop)
    end = select(func.max(found.c.seq)).where(found.c.chain == chains.c.chain)
    last = end.correlate(chains).scalar_subquery()
    ends = select(table.c.chain, table.c.seq, table.c.hash).join_from(
        chains, table, (table.c.chain == chains.c.chain) & (table.c.seq == last)
    )
    with reading(engine) as connection:
        rows = connection.execute(ends.order_by(table.c.chain))
        return [Head(row.chain, row.seq, row.hash) for row in rows]


def entry_hash(previous: bytes, row: dict[str, Any]) -> bytes:
    """SHA-256 over the hash before it and the entry as canonical JSON."""
    grant = row["grant_id"]
    entry = [
        row["chain"],
        row["seq"],
        to_micros(row["at"]),
        row["actor"],
        row["verb"],
        row["tenant"],
        grant.hex if grant else None,
        row["detail"],
    ]
    return sha256(previous + _canonical(entry).encode()).digest()


# `json.dumps` makes an encoder for each call.
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def _end_of(connection: Connection, chain: str) -> Head:
    found = connection.execute(_END, {"chain": chain}).first()
    return Head(chain, found.seq, found.hash) if found else Head(chain, 0, GENESIS)


_END = (
    select(AuditRow.seq, AuditRow.hash)
    .where(AuditRow.chain == bindparam("chain"))
    .order_by(AuditRow.seq.desc())
    .limit(1)
)


def _chained(end: Head, records: Sequence[AuditRecord]) -> list[dict[str, Any]]:
    rows = [_row(end.chain, end.seq + place, record) for place, record in enumerate(records, 1)]
    previous = end.hash
    for row in rows:
        row["hash"] = previous = entry_hash(previous, row)
    return rows


def _write(connection: Connection, rows: Sequence[dict[str, Any]], *, after: Head) -> bool:
    """All of them, if the chain ends with `after`; on PostgreSQL in one statement."""
    if connection.dialect.name != "postgresql":
        if _end_of(connection, after.chain) != after:
            return False
        connection.execute(insert(AuditRow), rows)
        return True
    columns = {name: pack([row[name] for row in rows]) for name, pack in _PACKED.items()}
    columns["detail"] = arrays.texts([_compact(row["detail"]) for row in rows])
    end = {"of": after.chain, "end": after.hash, "begin": GENESIS}
    return connection.exec_driver_sql(_POSTGRES_WRITE, {**columns, **end}).rowcount > 0


_compact = json.JSONEncoder(separators=(",", ":")).encode
_PACKED: dict[str, Callable[[Any], arrays.Packed]] = {
    "chain": arrays.texts,
    "seq": arrays.integers,
    "at": arrays.instants,
    "actor": arrays.texts,
    "verb": arrays.texts,
    "tenant": arrays.texts,
    "grant_id": arrays.uuids,
    "hash": arrays.blobs,
}
_POSTGRES_WRITE = """
INSERT INTO audit (chain, seq, at, actor, verb, tenant, grant_id, detail, hash)
SELECT chain, seq, at, actor, verb, tenant, grant_id, detail::json, hash FROM unnest(
    %(chain)s::text[], %(seq)s::bigint[], %(at)s::timestamptz[], %(actor)s::text[],
    %(verb)s::text[], %(tenant)s::text[], %(grant_id)s::uuid[], %(detail)s::text[],
    %(hash)s::bytea[]
) AS r(chain, seq, at, actor, verb, tenant, grant_id, detail, hash)
WHERE %(end)b::bytea = coalesce(
    (SELECT e.hash FROM audit e WHERE e.chain = %(of)s ORDER BY e.seq DESC LIMIT 1),
    %(begin)b::bytea
)
"""


def _row(chain: str, seq: int, record: AuditRecord) -> dict[str, Any]:
    return {
        "chain": chain,
        "seq": seq,
        "at": record.at,
        "actor": record.actor,
        "verb": record.verb,
        "tenant": record.tenant,
        "grant_id": record.grant,
        "detail": _as_read_back(record.detail or {}),
    }


def _as_read_back(detail: Mapping[str, object]) -> dict[str, Any]:
    """What is plain already comes back from JSON as it is."""
    if all(map(_is_plain, detail.values())):
        return dict(detail)
    read: dict[str, Any] = json.loads(json.dumps(dict(detail)))
    return read


_PLAIN = {str, int, bool, type(None)}


def _is_plain(value: object) -> bool:
    kind = type(value)
    return kind in _PLAIN or (isinstance(value, list) and all(map(_is_plain, value)))


def _check(row: Row[Any], seq: int, previous: bytes, mark: bytes | None) -> list[AuditProblem]:
    found = []
    if row.seq != seq + 1:
        found.append(f"{row.seq - seq - 1} entries before it are missing")
    elif entry_hash(previous, dict(row._mapping)) != row.hash:
        found.append("changed, or not where it was written")
    if mark is not None and mark != row.hash:
        found.append("not the entry that was anchored")
    return [AuditProblem(row.chain, row.seq, what) for what in found]


def _entries(engine: Engine) -> Any:
    """Every row, chain by chain, a batch at a time: the log may be larger than memory."""
    after: tuple[str, int] = ("", 0)
    while True:
        batch = _entries_after(engine, after)
        yield from batch
        if len(batch) < _BATCH:
            return
        after = (batch[-1].chain, batch[-1].seq)


def _entries_after(engine: Engine, after: tuple[str, int]) -> Sequence[Row[Any]]:
    chain, seq = after
    table = AuditRow.__table__
    beyond = (table.c.chain > chain) | ((table.c.chain == chain) & (table.c.seq > seq))
    with reading(engine) as connection:
        order = select(table).where(beyond).order_by(table.c.chain, table.c.seq).limit(_BATCH)
        return connection.execute(order).all()
