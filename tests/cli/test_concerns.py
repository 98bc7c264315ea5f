"""Grants that cannot be renewed are told per connection, with the setting that mends them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from tests.grants import GrantTable
from worker.cli.concerns import concerns, mending
from worker.cli.grants import _whose
from worker.cli.providers import connection_rows
from worker.domain.grant import GrantKey
from worker.domain.learned import Change
from worker.providers import load_catalogue
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.connections import ConnectionRepository
from worker.store.handout import HandoutRepository
from worker.store.learning import LearningRepository
from worker.store.listing import GrantLine


@pytest.fixture
def grants(engine, vault, clock):
    return GrantTable(engine, vault, clock)


@pytest.fixture
def base(engine, vault, clock):
    return SimpleNamespace(
        engine=engine,
        clock=clock,
        catalogue=load_catalogue({}, allow_loopback=False),
        connections=lambda: ConnectionRepository(engine, vault),
    )


def without_refresh_token(grants, users, **columns):
    for n in range(users):
        grants.add(
            refresh_token=None,
            renewable=False,
            reason="no_refresh_token",
            identity_user_id=str(n),
            user_id=f"google-oauth2|{n}",
            **columns,
        )


def test_a_missing_refresh_token_names_the_setting_and_the_users_concerned(base, grants):
    grants.add_connection(client_id="ours", options={"scope": ["email"]})
    without_refresh_token(grants, 3)
    grants.add(identity_user_id="well", user_id="google-oauth2|well")
    [concern] = concerns(base, "acme")["google"]
    assert "access_type=offline" in concern.sentence
    assert "upstream_params" in concern.sentence
    assert concern.sentence.endswith("(3 grants, 3 users)")
    [row] = connection_rows(base, "acme")
    assert row["concerns"] == [concern.sentence]


def test_a_single_grant_is_explained_with_how_many_share_its_trouble(base, grants, engine):
    grants.add_connection(client_id="ours", options={"scope": ["email"]})
    without_refresh_token(grants, 3)
    repository = HandoutRepository(engine, AuditLog("n1"))
    [one, *_] = repository.of_user("acme", "google-oauth2|1")
    told = mending(base, one)
    assert "access_type=offline" in told
    assert told.endswith("(2 other users of the connection are concerned)")
    well = repository.by_id(grants.add(identity_user_id="well"))
    assert mending(base, well) == ""


def test_why_a_connection_was_stopped_is_told_by_what_its_number_means(base, grants):
    stopped = "invalid_client AADSTS7000222"
    grants.add_connection(name="entra", strategy="waad", client_id="ours", stopped=stopped)
    [row] = connection_rows(base, "acme")
    assert row["problem"] == stopped
    assert "client secret has expired" in row["advice"]


def test_a_token_that_never_ends_concerns_nobody(base, grants):
    grants.add_connection()
    without_refresh_token(grants, 2, life=None)
    assert concerns(base, "acme") == {}


def test_developer_keys_are_the_connections_fault_and_told_once(base, grants):
    """Auth0's own client: nothing else about the connection matters."""
    grants.add_connection(client_id=None)
    grants.add(renewable=False, reason="not_renewable")
    [row] = connection_rows(base, "acme")
    assert "developer keys" in row["problem"]
    assert row["concerns"] == []


def test_a_provider_that_has_changed_is_repeated_with_counts(base, grants, engine, clock):
    grants.add_connection(client_id="ours")
    grants.add(rotated_before=True)
    key = GrantKey(tenant="acme", connection="google", identity_user_id="104")
    learning = LearningRepository(engine, tell=outbox.add)
    assert learning.changed(key, "google-oauth2", Change.ROTATES, clock.now())
    assert not learning.changed(key, "google-oauth2", Change.ROTATES, clock.now())
    [concern] = concerns(base, "acme")["google"]
    assert "1 of 1 grants so far" in concern.sentence


REFUSED = {"provider": "waad", "strategy": "waad", "connection": "entra"}


def test_a_refusal_is_told_by_what_its_number_means_with_the_users_concerned(base, grants, engine):
    """A mass that died of one setting is one line, and not a riddle for each user."""
    grants.add_connection(name="entra", strategy="waad", client_id="ours")
    for n in range(3):
        grants.add(
            identity_user_id=str(n),
            user_id=f"waad|{n}",
            state="needs_reauth",
            reason="invalid_grant AADSTS700084",
            **REFUSED,
        )
    parked = grants.add(
        identity_user_id="parked", failures=1, reason="invalid_grant AADSTS53003", **REFUSED
    )
    grants.add(identity_user_id="busy", failures=1, last_error="http_503", **REFUSED)
    told = [concern.sentence for concern in concerns(base, "acme")["entra"]]
    assert len(told) == 2
    assert "platform Web" in told[1]
    assert told[1].endswith("(3 grants, 3 users)")
    assert "Conditional Access" in told[0]
    assert "evergrant connections reopen entra" in told[0]
    assert "reopen" not in told[1]
    held = HandoutRepository(engine, AuditLog("n1")).by_id(parked)
    assert "exempt the application" in mending(base, held)


def test_a_change_a_provider_announced_is_told_while_it_is_near_with_the_users_concerned(
    base, grants, clock
):
    grants.add_connection(name="crm", strategy="oauth2", client_id="ours",
        options={"tokenURL": "https://api.hubapi.com/oauth/v1/token"})  # fmt: skip
    grants.add(connection="crm", provider="hubspot", strategy="oauth2", user_id="oauth2|1")
    assert concerns(base, "acme") == {}  # more than half a year ahead
    clock.advance((datetime(2026, 11, 28, tzinfo=UTC) - clock.now()).total_seconds())
    [concern] = concerns(base, "acme")["crm"]
    assert "2027-02-16 (in 80 days)" in concern.sentence
    assert concern.sentence.endswith("(1 grant, 1 user)")
    clock.advance(200 * 86_400)
    assert concerns(base, "acme") == {}


def test_an_accounts_bot_is_told_from_its_person():
    line = GrantLine(**dict.fromkeys(GrantLine.__annotations__))
    person = replace(line, user_id="slack|1", part="user")
    assert _whose(person) == "slack|1"
    assert _whose(replace(person, part="bot")) == "slack|1 (bot)"
    assert _whose(replace(person, user_id=None, part="admin")) == "admin"


def test_what_is_not_what_was_written_is_told_with_what_to_do(base, grants, engine):
    grants.add_connection()
    grant = grants.add(due_at=None, last_error="does_not_open")
    [concern] = concerns(base, "acme")["google"]
    assert "is not what was written" in concern.sentence
    held = HandoutRepository(engine, AuditLog("test")).by_id(grant)
    assert "is not what was written" in mending(base, held)
