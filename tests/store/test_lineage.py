"""Claims are for one history of the store, and its processes vouch for it (I24)."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from tests.clock import FakeClock
from tests.planted import plant, row_of
from worker.domain.errors import TransientError
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.claims import ClaimsRepository
from worker.store.settling import SettlingRepository


class Node:
    def __init__(self, engine, name):
        clock = FakeClock(start=datetime.now(UTC))
        self.claims = ClaimsRepository(engine, node=name, process="p", clock=clock)
        self.settling = SettlingRepository(
            engine, node=name, process="p", clock=clock, audit=AuditLog(name), tell=outbox.add
        )

    def claim(self):
        return self.claims.claim_due("google-oauth2", ["acme"], each=5, lease=20.0, since={})


@pytest.fixture
def node(engine):
    return Node(engine, "n1")


def test_nothing_is_claimed_in_another_history(engine, vault, node):
    grant = plant(engine, vault, now=datetime.now(UTC) - timedelta(seconds=5))
    node.claims.lineage = node.settling.lineage() + 1
    for ask in (node.claims.due, lambda: node.claims.unfinished("google-oauth2", ["acme"], [])):
        with pytest.raises(TransientError):
            ask()
    with suppress(TransientError):  # on SQLite; on PostgreSQL the claim just finds nothing
        assert node.claim() == []
    assert row_of(engine, grant).fence == 0
    node.claims.lineage = node.settling.lineage()
    assert len(node.claim()) == 1


def test_who_vouched_for_another_history_is_named_until_he_has_looked_again(engine, node):
    other, now = Node(engine, "n2"), node.settling.lineage()
    assert node.settling.vouch(now) == []
    assert other.settling.vouch(now) == []
    assert sorted(node.settling.silent(now + 1)) == ["n1:p", "n2:p"]
    assert node.settling.silent(now) == []
    other.settling.unvouch("p")
    assert node.settling.silent(now + 1) == ["n1:p"]
    node.settling.forget(["n1:p"])
    assert node.settling.silent(now + 1) == []


def test_nobody_vouches_for_a_history_that_is_over(node):
    with pytest.raises(TransientError):
        node.settling.vouch(node.settling.lineage() + 1)
    assert node.settling.silent(-1) == []
