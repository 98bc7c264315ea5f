"""The audit tells: every edit, removal, insertion, reordering and cut shows (I19, I20, T14)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, select, text, update

from tests.clock import T0
from worker.domain.errors import TamperError
from worker.domain.grant import GrantId
from worker.domain.ports import AuditRecord
from worker.store.anchors import Anchors
from worker.store.audit import AuditLog, entry_hash, verify
from worker.store.engine import open_engine, reading, writing
from worker.store.tables import AuditRow
from worker.vault import AesVault, Keyring

RECORD = AuditRecord(
    at=T0,
    actor="worker:n1",
    verb="renewed",
    tenant="acme",
    grant=GrantId(uuid4()),
    detail={"generation": 3, "scope": None, "share": 0.1, "note": "ünïcode"},
)


def written(engine: Engine, count: int = 6, log: AuditLog | None = None) -> AuditLog:
    """`count` entries, two by two."""
    log = log or AuditLog("n1")
    for first in range(0, count, 2):
        pair = [replace(RECORD, at=T0 + timedelta(seconds=first + place)) for place in range(2)][
            : count - first
        ]
        with writing(engine) as connection:
            log.append(connection, pair)
    return log


def test_an_untouched_log_has_no_problems(engine: Engine) -> None:
    written(engine)
    written(engine, count=3)  # another process, another chain
    assert verify(engine) == []


def test_a_transaction_rolled_back_leaves_no_entry_and_no_gap(engine: Engine) -> None:
    log = written(engine)
    with writing(engine) as connection:
        log.append(connection, [RECORD])
        connection.rollback()
    written(engine, log=log)
    assert verify(engine) == []
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT max(seq) FROM audit")) == 12


def test_two_appends_in_one_transaction_stand_in_one_chain(engine: Engine) -> None:
    log = AuditLog("n1")
    with writing(engine) as connection:
        log.append(connection, [RECORD])
        log.append(connection, [])
        log.append(connection, [RECORD])
    assert verify(engine) == []


def test_threads_write_chains_of_their_own(sqlite_engine: Engine) -> None:
    log = AuditLog("n1")
    threads = [Thread(target=written, args=(sqlite_engine, 4, log)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(sqlite_engine) == []
    with reading(sqlite_engine) as connection:
        assert connection.scalar(text("SELECT count(DISTINCT chain) FROM audit")) == 3


def test_a_forked_process_begins_a_chain_of_its_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written(engine)
    monkeypatch.setattr("os.getpid", lambda: 1)
    written(engine, log=log)
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT count(DISTINCT chain) FROM audit")) == 2


def sql(*statements: str) -> Callable[[Connection], None]:
    def change(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    return change


def forge(connection: Connection) -> None:
    """Edit an entry and give it the hash it would have had: the next one betrays it."""
    table = AuditRow.__table__
    rows = connection.execute(select(table).where(table.c.seq.in_([2, 3]))).mappings().all()
    before, forged = dict(rows[0]), {**rows[1], "actor": "key:mallory"}
    values = {"actor": forged["actor"], "hash": entry_hash(before["hash"], forged)}
    connection.execute(update(AuditRow).where(AuditRow.seq == 3).values(values))


COPY = (
    "INSERT INTO audit (chain, seq, at, actor, verb, tenant, grant_id, detail, hash) "
    "SELECT chain, {seq}, at, actor, verb, tenant, grant_id, detail, hash FROM audit WHERE seq = 2"
)
CHANGES = {
    "forged with its hash": forge,
    "actor edited": sql("UPDATE audit SET actor = 'key:mallory' WHERE seq = 3"),
    "verb edited": sql("UPDATE audit SET verb = 'token_read' WHERE seq = 1"),
    "tenant edited": sql("UPDATE audit SET tenant = 'other' WHERE seq = 6"),
    "grant removed": sql("UPDATE audit SET grant_id = NULL WHERE seq = 3"),
    "detail edited": sql("UPDATE audit SET detail = '{}' WHERE seq = 3"),
    "time moved": sql("UPDATE audit SET at = (SELECT at FROM audit WHERE seq = 1) WHERE seq = 3"),
    "hash edited": sql(
        "UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 1) WHERE seq = 3"
    ),
    "first removed": sql("DELETE FROM audit WHERE seq = 1"),
    "middle removed": sql("DELETE FROM audit WHERE seq IN (3, 4)"),
    "removed and closed up": sql(
        "DELETE FROM audit WHERE seq = 3",
        "UPDATE audit SET seq = 3 WHERE seq = 4",
        "UPDATE audit SET seq = 4 WHERE seq = 5",
        "UPDATE audit SET seq = 5 WHERE seq = 6",
    ),
    "reordered": sql(
        "UPDATE audit SET seq = 99 WHERE seq = 3",
        "UPDATE audit SET seq = 3 WHERE seq = 4",
        "UPDATE audit SET seq = 4 WHERE seq = 99",
    ),
    "inserted behind": sql(COPY.format(seq=7)),
    "inserted between": sql(
        "UPDATE audit SET seq = 7 WHERE seq = 6",
        "UPDATE audit SET seq = 6 WHERE seq = 5",
        COPY.format(seq=5),
    ),
    "moved to another chain": sql("UPDATE audit SET chain = 'elsewhere' WHERE seq = 6"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_in_the_database_shows(
    engine: Engine, change: Callable[[Connection], None]
) -> None:
    written(engine)
    with writing(engine) as connection:
        change(connection)
    assert verify(engine)


def test_the_problem_is_named_by_its_place(engine: Engine) -> None:
    written(engine)
    with writing(engine) as connection:
        CHANGES["actor edited"](connection)
    (problem,) = verify(engine)
    assert problem.seq == 3
    assert "changed" in str(problem)


class TestAnchors:
    """What the chain alone cannot show: a tail cut off, a chain gone, or all of it rewritten."""

    def test_a_tail_cut_off_below_an_anchor_shows(
        self, engine: Engine, vault: AesVault, tmp_path: Path
    ) -> None:
        anchors = Anchors(tmp_path / "anchors", vault)
        log = written(engine)
        assert anchors.note(engine, T0) == 1
        written(engine, log=log)
        with writing(engine) as connection:
            connection.execute(text("DELETE FROM audit WHERE seq > 4"))
        assert verify(engine) == []
        (problem,) = verify(engine, anchors.heads())
        assert (problem.seq, problem.what) == (6, "anchored, but gone")

    def test_a_chain_rewritten_from_scratch_shows(
        self, engine: Engine, vault: AesVault, tmp_path: Path
    ) -> None:
        anchors = Anchors(tmp_path / "anchors", vault)
        log = written(engine)
        anchors.note(engine, T0)
        with writing(engine) as connection:
            connection.execute(text("DELETE FROM audit"))
            log.append(connection, [replace(RECORD, actor="nobody") for _ in range(6)])
        assert verify(engine) == []
        assert "not the entry that was anchored" in str(verify(engine, anchors.heads()))

    def test_only_heads_that_moved_are_noted(
        self, engine: Engine, vault: AesVault, tmp_path: Path
    ) -> None:
        anchors = Anchors(tmp_path / "anchors", vault)
        first, _ = written(engine), written(engine)
        assert anchors.note(engine, T0) == 2
        assert anchors.note(engine, T0) == 0
        written(engine, log=first)
        assert anchors.note(engine, T0) == 1
        assert verify(engine, anchors.heads()) == []
        assert len((tmp_path / "anchors").read_bytes().splitlines()) == 2

    def test_a_line_torn_by_a_crash_is_written_anew(
        self, engine: Engine, vault: AesVault, tmp_path: Path
    ) -> None:
        anchors = Anchors(tmp_path / "anchors", vault)
        log = written(engine)
        anchors.note(engine, T0)
        written(engine, log=log)
        with (tmp_path / "anchors").open("ab") as file:
            file.write(b'{"at":"2026-01-01T12:00')
        assert anchors.note(engine, T0) == 1
        assert [head.seq for head in anchors.heads()] == [6, 12]

    def test_a_file_that_is_a_link_is_refused(self, vault: AesVault, tmp_path: Path) -> None:
        (tmp_path / "anchors").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError):
            Anchors(tmp_path / "anchors", vault).note(None, T0)  # type: ignore[arg-type]  # unused


@pytest.fixture(scope="module")
def anchored(
    _migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, AesVault, Path]:
    vault = AesVault(Keyring.generate())
    path = tmp_path_factory.mktemp("anchored")
    (path / "evergrant.db").write_bytes(_migrated_sqlite.read_bytes())
    engine = open_engine(f"sqlite:///{path}/evergrant.db")
    anchors, log = Anchors(path / "anchors", vault), AuditLog("n1")
    for _ in range(3):
        written(engine, log=log)
        anchors.note(engine, T0)
    engine.dispose()
    return (path / "anchors").read_bytes(), vault, path / "edited"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
EDITS = st.one_of(
    st.tuples(st.sampled_from(["actor", "verb", "tenant"]), texts),
    st.tuples(st.just("detail"), st.dictionaries(texts, st.integers(0, 9) | texts, max_size=2)),
    st.tuples(st.just("hash"), st.binary(max_size=40)),
    st.tuples(st.just("grant_id"), st.none() | st.uuids()),
    st.tuples(st.just("at"), st.integers(-(10**9), 10**9).map(lambda s: T0 + timedelta(seconds=s))),
)


@settings(deadline=None)
@given(seq=st.integers(1, 6), edit=EDITS)
def test_whatever_is_written_over_an_entry_shows(
    audited: Engine, seq: int, edit: tuple[str, object]
) -> None:
    column, value = edit
    table = AuditRow.__table__
    this = table.c.seq == seq
    with writing(audited) as connection:
        before = connection.execute(select(table.c[column]).where(this)).scalar_one()
        connection.execute(update(AuditRow).where(this).values({column: value}))
    try:
        assert bool(verify(audited)) == (before != value)
    finally:
        with writing(audited) as connection:
            connection.execute(update(AuditRow).where(this).values({column: before}))


@pytest.fixture(scope="module")
def audited(_migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("audited") / "evergrant.db"
    path.write_bytes(_migrated_sqlite.read_bytes())
    engine = open_engine(f"sqlite:///{path}")
    written(engine)
    yield engine
    engine.dispose()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_byte_changed_in_the_anchors_shows(
    anchored: tuple[bytes, AesVault, Path], data: st.DataObject
) -> None:
    content, vault, path = anchored
    place = data.draw(st.integers(0, len(content) - 2))  # the last byte ends the last line
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))
    path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
    with pytest.raises(TamperError):
        Anchors(path, vault).heads()


@pytest.mark.parametrize("order", [(1, 2), (0, 2), (1, 0, 2), (0, 1, 1, 2), (2, 1, 0)])
def test_lines_of_the_anchors_removed_or_reordered_show(
    anchored: tuple[bytes, AesVault, Path], order: tuple[int, ...]
) -> None:
    content, vault, path = anchored
    lines = content.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(TamperError):
        Anchors(path, vault).heads()
