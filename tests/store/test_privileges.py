"""What web and scheduler may do in PostgreSQL. The API's own tests run under the web's role."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from tests.clock import FakeClock
from tests.events.payloads import jsonl, login
from tests.grants import GrantTable
from tests.restricted import restricted
from worker.bootstrap.health import Health, status
from worker.bootstrap.schedule import StoreSchedule
from worker.domain.errors import ConfigurationError, TransientError
from worker.domain.event import Source
from worker.events import Intake, TenantFacts
from worker.store import migrate, privileges
from worker.store.engine import reading, writing
from worker.store.hints import HintRepository
from worker.store.inbox import InboxRepository
from worker.store.overview import Overview
from worker.store.privileges import SCHEDULER, WEB
from worker.vault import AesVault

on_postgres = pytest.mark.parametrize("store_url", ["postgres"], indirect=True)


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Engine]:
    with restricted(engine, SCHEDULER) as opened:
        yield opened


def used(engine: Engine, clock: FakeClock) -> None:
    """Hints, as both roles send and clear them."""
    hints = HintRepository(engine)
    assert hints.take("events", clock.now(), timedelta(seconds=5))
    assert not hints.take("events", clock.now(), timedelta(seconds=5))
    clock.advance(6)
    assert hints.take("events", clock.now(), timedelta(seconds=5))
    hints.clear("events")


@on_postgres
async def test_web_takes_events_in_and_tells_how_things_stand(
    engine: Engine, web_engine: Engine, vault: AesVault, clock: FakeClock
) -> None:
    GrantTable(engine, vault, clock).add()
    facts = {"acme": TenantFacts(name="acme")}
    intake = Intake(
        inbox=InboxRepository(web_engine), tenants=facts, spool=None, ring=lambda: None, clock=clock
    )
    body = jsonl(login("1")) + b"\nno record"
    for duplicates in (0, 2):
        reading_ = intake.read("acme", Source.LOGS, body)
        counts = intake.take("acme", Source.LOGS, reading_)
        assert (counts.accepted, counts.duplicate) == (2 - duplicates, duplicates)
    used(web_engine, clock)
    assert migrate.is_current(web_engine)
    told = status(Overview(web_engine), clock.now())
    assert told["inbox"]["waiting"] == 1

    async def in_place(call, *args):  # type: ignore[no-untyped-def]
        return call(*args)

    health = Health(web_engine, clock=clock, offload=in_place)  # type: ignore[arg-type]
    assert [name for name, *_ in health._rows() if name == "evergrant_auth0_budget"]


@on_postgres
def test_the_scheduler_sees_what_is_due(
    engine: Engine, scheduler: Engine, vault: AesVault, clock: FakeClock
) -> None:
    GrantTable(engine, vault, clock).add(due_at=clock.now() - timedelta(days=9000))
    schedule = StoreSchedule(scheduler, clock)
    assert [line.provider for line in schedule.due()] == ["google-oauth2"]
    assert not schedule.events_due(clock.now())
    assert not schedule.notices_due(clock.now())
    used(scheduler, clock)


OF_NEITHER = [
    "SELECT refresh_token FROM grants",
    "SELECT refresh_key FROM grants",
    "SELECT refresh_token FROM candidates",
    "SELECT api_token FROM tenants",
    "SELECT * FROM grants",
    "UPDATE grants SET access_token = ''",
    "UPDATE grants SET refresh_key = ''",
    "UPDATE grants SET user_id = 'auth0|me'",
    "UPDATE grants SET lease_until = now()",
    "UPDATE grants SET withheld = NULL",
    "DELETE FROM grants",
    "UPDATE connections SET approved_host = 'evil.example'",
    "UPDATE connections SET options = '{}'",
    "INSERT INTO api_keys SELECT * FROM api_keys",
    "UPDATE api_keys SET verbs = 'admin'",
    "UPDATE inbox SET state = 'done'",
    "DELETE FROM inbox",
    "DELETE FROM outbox",
    "UPDATE audit SET actor = 'nobody'",
    "DELETE FROM audit",
    "TRUNCATE audit",
    "SELECT * FROM audit_cuts",
    "UPDATE counters SET value = 0",
    "UPDATE nodes SET replayed_at = now()",
    "UPDATE alembic_version SET version_num = '9999'",
    "CREATE TABLE mine (x int)",
    "COPY (SELECT 1) TO PROGRAM 'true'",
]


@on_postgres
@pytest.mark.parametrize("statement", OF_NEITHER)
def test_what_a_role_that_is_taken_over_cannot_do(
    engine: Engine, web_engine: Engine, scheduler: Engine, statement: str
) -> None:
    for least in (web_engine, scheduler):
        with pytest.raises(TransientError) as refused, writing(least) as connection:
            connection.execute(text(statement))
        assert refused.value.code == "store_refuses"
    if "PROGRAM" not in statement:  # the statement itself is sound
        with engine.connect() as connection:
            connection.execute(text(statement))
            connection.rollback()


@on_postgres
@pytest.mark.parametrize(
    "statement",
    ["SELECT access_token FROM grants", "SELECT 1 FROM api_keys", "SELECT 1 FROM audit"],
)
def test_what_the_scheduler_alone_cannot_do(scheduler: Engine, statement: str) -> None:
    with pytest.raises(TransientError), reading(scheduler) as connection:
        connection.execute(text(statement))


@on_postgres
def test_rights_of_before_are_taken_back(engine: Engine, scheduler: Engine) -> None:
    role = scheduler.url.username
    with engine.begin() as connection:
        connection.execute(text(f"GRANT ALL ON grants TO {role}"))
        connection.execute(text(f"GRANT SELECT (refresh_token) ON grants TO {role}"))
    with reading(scheduler) as connection:
        connection.execute(text("SELECT refresh_token FROM grants"))
    privileges.restrict(engine, str(role), SCHEDULER)
    with pytest.raises(TransientError), reading(scheduler) as connection:
        connection.execute(text("SELECT refresh_token FROM grants"))


@on_postgres
@pytest.mark.parametrize(
    ("role", "code"), [("evergrant", "mighty_role"), ("nobody; DROP TABLE grants", "no_role")]
)
def test_a_role_that_no_grant_binds_is_refused(engine: Engine, role: str, code: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        privileges.restrict(engine, role, WEB)
    assert refused.value.code == code


def test_the_embedded_database_has_no_roles(sqlite_engine: Engine) -> None:
    with pytest.raises(ConfigurationError) as refused:
        privileges.restrict(sqlite_engine, "web", WEB)
    assert refused.value.code == "no_roles"
