"""What `status` and `/metrics` read."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import insert

from worker.store.engine import writing
from worker.store.overview import Overview
from worker.store.tables import GrantRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def minutes(count):
    return NOW + timedelta(minutes=count)


@pytest.fixture
def grants(engine):
    def add(provider, due, *, state="active", expires=60, tenant="acme"):
        row = {
            "tenant": tenant, "connection": provider, "part": "user", "strategy": provider,
            "provider": provider, "state": state, "renewable": True, "generation": 0,
            "family": 0, "token_type": "Bearer", "issued_at": NOW, "expiry": "at",
            "expires_at": minutes(expires), "logged_in_at": NOW, "rotated_before": False,
            "due_at": None if due is None else minutes(due), "failures": 0, "fence": 0,
            "uncertain": False, "pull_fence": 0, "created_at": NOW,
        }  # fmt: skip
        row |= {"id": uuid4(), "identity_user_id": str(uuid4())}
        with writing(engine) as connection:
            connection.execute(insert(GrantRow), row)

    return add


def test_grants_are_counted_by_what_an_operator_asks(engine, grants):
    grants("github", -1)
    grants("github", 5, expires=-5)
    grants("github", None, state="needs_reauth")
    grants("github", None, state="erased")
    (line,) = Overview(engine).grants(NOW).providers
    assert (line.grants, line.active, line.needs_reauth) == (3, 2, 1)
    assert (line.valid, line.overdue, line.next_due) == (1, 1, minutes(-1))


def test_they_are_counted_by_provider_and_by_tenant_alike(engine, grants):
    grants("github", -1)
    grants("github", -3, tenant="globex", expires=-5)
    grants("google-oauth2", 7, tenant="globex")
    told = Overview(engine).grants(NOW)
    counts = [(line.provider, line.grants, line.valid, line.next_due) for line in told.providers]
    assert counts == [("github", 2, 1, minutes(-3)), ("google-oauth2", 1, 1, minutes(7))]
    counts = [(line.tenant, line.grants, line.valid, line.next_due) for line in told.tenants]
    assert counts == [("acme", 1, 1, minutes(-1)), ("globex", 2, 1, minutes(-3))]
