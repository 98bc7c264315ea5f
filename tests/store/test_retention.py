"""The audit is kept as long as is wished, and tells all the same (I20)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text, update

from tests.clock import T0
from tests.store.test_audit import RECORD, written
from worker.domain.errors import TamperError
from worker.store import anchors as anchoring
from worker.store import audit
from worker.store.anchors import Anchors
from worker.store.audit import AuditLog
from worker.store.engine import reading, writing
from worker.store.retention import Pruned, check, prune
from worker.store.tables import AuditCutRow, AuditRow
from worker.vault import AesVault, Keyring

DAY = timedelta(days=1)


@pytest.fixture
def anchors(vault: AesVault, tmp_path: Path) -> Anchors:
    return Anchors(tmp_path / "anchors", vault)


def kept_for_days(engine: Engine, days: int = 100, log: AuditLog | None = None) -> AuditLog:
    """A chain with an entry a day, up to `T0 + days`."""
    log = log or AuditLog("n1")
    for day in range(days):
        with writing(engine) as connection:
            log.append(connection, [replace(RECORD, at=T0 + day * DAY)])
    return log


def pruned(engine: Engine, vault: AesVault, before: int, **more: object) -> Pruned:
    now, told = T0 + 200 * DAY, AuditLog("cli")
    return prune(
        engine, vault, told, before=T0 + before * DAY, now=now, actor="cli:me", **more  # type: ignore[arg-type]  # heads
    )  # fmt: skip


def test_what_is_old_goes_and_the_rest_still_verifies(
    engine: Engine, vault: AesVault, anchors: Anchors
) -> None:
    log = kept_for_days(engine, 40)
    anchors.note(engine, T0)
    kept_for_days(engine, 10)
    assert pruned(engine, vault, 30, anchored=anchors.heads()) == Pruned(2, 30 + 9)
    assert check(engine, vault, anchors.heads()) == []
    written(engine, log=log)  # the chain goes on where it was
    anchors.note(engine, T0)
    assert check(engine, vault, anchors.heads()) == []
    assert pruned(engine, vault, 300).entries == 10 + 5 + 0
    assert check(engine, vault, anchors.heads()) == []


def test_a_chain_keeps_its_last_entry_for_its_writer_to_go_on(
    engine: Engine, vault: AesVault
) -> None:
    log = kept_for_days(engine, 5)
    pruned(engine, vault, 100)
    with writing(engine) as connection:
        log.append(connection, [RECORD])
    with reading(engine) as connection:
        seqs = select(AuditRow.seq).where(AuditRow.chain.like("n1/%")).order_by(AuditRow.seq)
        assert list(connection.scalars(seqs)) == [5, 6]


def test_it_is_told_in_the_log_itself(engine: Engine, vault: AesVault) -> None:
    kept_for_days(engine, 3)
    pruned(engine, vault, 2)
    with reading(engine) as connection:
        found = connection.execute(select(AuditRow).where(AuditRow.verb == "audit_pruned")).one()
    assert (found.actor, found.detail["chains"]) == ("cli:me", 1)


TAMPERING: dict[str, Callable[[Engine], object]] = {
    "more removed than was cut": lambda engine: run(engine, "DELETE FROM audit WHERE seq <= 6"),
    "the cut moved up with it": lambda engine: run(
        engine,
        "UPDATE audit_cuts SET seq = 6, hash = (SELECT hash FROM audit WHERE seq = 6)",
        "DELETE FROM audit WHERE seq <= 6",
    ),
    "the cut forgotten": lambda engine: run(engine, "DELETE FROM audit_cuts"),
    "the next entry changed": lambda engine: run(
        engine, "UPDATE audit SET actor = 'nobody' WHERE seq = 5"
    ),
}


def run(engine: Engine, *statements: str) -> None:
    with writing(engine) as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize("tamper", TAMPERING.values(), ids=TAMPERING)
def test_nobody_else_can_cut(
    engine: Engine, vault: AesVault, tamper: Callable[[Engine], object]
) -> None:
    kept_for_days(engine, 10)
    pruned(engine, vault, 4)
    assert check(engine, vault) == []
    tamper(engine)
    assert check(engine, vault) != []


def test_a_cut_signed_with_another_key_is_nobodys(engine: Engine, vault: AesVault) -> None:
    kept_for_days(engine, 10)
    pruned(engine, AesVault(Keyring.generate()), 4)
    assert "a cut that we did not make" in str(check(engine, vault)[0])


def test_nothing_is_pruned_from_a_log_that_was_changed(engine: Engine, vault: AesVault) -> None:
    """It is evidence."""
    kept_for_days(engine, 10)
    with writing(engine) as connection:
        connection.execute(update(AuditRow).where(AuditRow.seq == 2).values(actor="nobody"))
    with pytest.raises(TamperError, match="entry 2"):
        pruned(engine, vault, 4)
    with reading(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(AuditRow)) == 10


def test_a_prune_that_a_crash_cut_short_is_finished_by_the_next(
    engine: Engine, vault: AesVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_for_days(engine, 10)
    with monkeypatch.context() as patched:
        patched.setattr("worker.store.retention._drop", lambda engine, cut: 0)
        pruned(engine, vault, 6)
    run(engine, "DELETE FROM audit WHERE seq <= 3 AND chain LIKE 'n1/%'")  # as far as it came
    assert check(engine, vault) == []
    assert pruned(engine, vault, 6).entries == 3
    assert check(engine, vault) == []
    with reading(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(AuditCutRow)) == 1


def test_the_anchors_begin_anew_when_they_are_many_and_prove_as_much(
    engine: Engine, vault: AesVault, anchors: Anchors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchoring, "_LARGE", 900)  # bytes
    first, second = written(engine), written(engine)
    sizes = []
    for _ in range(8):
        written(engine, log=first)
        anchors.note(engine, T0)
        sizes.append((anchors._path).stat().st_size)
    assert max(sizes) < 1500
    assert sorted(head.seq for head in anchors.heads())[0] == 6  # the silent chain's, kept
    written(engine, log=second)
    with writing(engine) as connection:
        connection.execute(text("DELETE FROM audit WHERE seq = 54"))
    assert "anchored, but gone" in str(audit.verify(engine, anchors.heads()))
