"""What the tick, `status` and `/metrics` read."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import event, insert

from worker.store.engine import writing
from worker.store.overview import DueLine, Overview
from worker.store.tables import GrantRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def minutes(count):
    return NOW + timedelta(minutes=count)


@pytest.fixture
def grants(engine):
    def add(provider, due, *, tenant="acme", state="active", expires=60, count=1):
        row = {
            "tenant": tenant, "connection": provider, "part": "user", "strategy": provider,
            "provider": provider, "state": state, "renewable": True, "generation": 0,
            "family": 0, "token_type": "Bearer", "issued_at": NOW, "expiry": "at",
            "expires_at": minutes(expires), "logged_in_at": NOW, "rotated_before": False,
            "due_at": None if due is None else minutes(due), "failures": 0, "fence": 0,
            "uncertain": False, "pull_fence": 0, "created_at": NOW,
        }  # fmt: skip
        rows = [{**row, "id": uuid4(), "identity_user_id": str(uuid4())} for _ in range(count)]
        with writing(engine) as connection:
            connection.execute(insert(GrantRow), rows)

    return add


def test_the_earliest_work_of_each_provider_and_tenant_is_found(engine, grants):
    grants("github", -1)
    grants("github", 5)
    grants("github", -2, tenant="beta")
    grants("waad", 7)
    grants("facebook", None)
    assert Overview(engine).due() == [
        DueLine(provider="github", tenant="acme", due_at=minutes(-1)),
        DueLine(provider="github", tenant="beta", due_at=minutes(-2)),
        DueLine(provider="waad", tenant="acme", due_at=minutes(7)),
    ]


def test_a_tick_costs_as_many_lookups_as_there_are_pairs_however_many_grants(engine, grants):
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    grants("github", 1, count=300)
    grants("waad", 1, count=300)
    statements.clear()
    assert len(Overview(engine).due()) == 2
    assert len([s for s in statements if "SELECT" in s.upper()]) == 3


def test_grants_are_counted_by_what_an_operator_asks(engine, grants):
    grants("github", -1)
    grants("github", 5, expires=-5)
    grants("github", None, state="needs_reauth")
    grants("github", None, state="erased")
    (line,) = Overview(engine).providers(NOW)
    assert (line.grants, line.active, line.needs_reauth) == (3, 2, 1)
    assert (line.valid, line.overdue, line.next_due) == (1, 1, minutes(-1))
