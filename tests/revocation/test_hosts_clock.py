"""`evergrant compromise` from a host whose clock is wrong: what counts is the store's time."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from tests.clock import FakeClock
from tests.grants import GrantTable
from worker.bootstrap.clock import SystemClock
from worker.cli.app import build
from worker.domain.ports import AuditRecord
from worker.store import migrate
from worker.store.audit import AuditLog
from worker.store.engine import open_engine, writing
from worker.store.tables import CandidateRow
from worker.vault import AesVault, Keyring

HOUR = timedelta(hours=1)
FAST, SLOW = HOUR, -HOUR


@pytest.fixture
def evergrant(tmp_path, monkeypatch, postgres_url):
    for name, value in {
        "EVERGRANT_DATA_DIR": str(tmp_path),
        "EVERGRANT_DATABASE_URL": postgres_url,
        "EVERGRANT_KEYRING": str(tmp_path / "keyring.json"),
        "EVERGRANT_BROKER_URL": "memory://",
        "AUTH0_DOMAIN": "acme.eu.auth0.com",
        "AUTH0_CLIENT_ID": "id",
        "AUTH0_CLIENT_SECRET": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    engine = open_engine(postgres_url)
    migrate.upgrade(engine)

    def evergrant(off, *words):
        monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + off)
        told = CliRunner().invoke(build(), [*words, "--json"], catch_exceptions=False)
        return json.loads(told.stdout)

    evergrant.engine = engine
    vault = AesVault(Keyring.create(tmp_path / "keyring.json"))
    evergrant.grants = GrantTable(engine, vault, FakeClock(datetime.now(UTC)))
    yield evergrant
    engine.dispose()


@pytest.mark.parametrize("off", [FAST, SLOW])
def test_what_is_replaced_ends_for_every_reader_and_is_renewed_at_once(evergrant, off):
    """Neither served on while the clock of the command, or of a reader, has not come so far; nor
    told to be replaced by a renewal that came before."""
    grant = evergrant.grants.add(tenant="default", renewed_at=datetime.now(UTC))
    words = ("compromise", "--connection", "google", "--replace", "--yes", "--wait", "0")
    told = evergrant(off, *words)
    assert told["report"]["pending"] == 1
    row, now = evergrant.grants.row(grant), datetime.now(UTC)
    assert row.expires_at < now - timedelta(minutes=59)
    assert now - timedelta(minutes=1) < row.due_at <= now


def test_nor_is_what_waits_beside_it_served_after_it(evergrant):
    """A refusal makes the older family current again, with the access token that came with it."""
    grant = evergrant.grants.add(tenant="default")
    ends = datetime.now(UTC) + HOUR
    evergrant.grants.add_candidate(grant, "rt-1", why="superseded_family", expires_at=ends)
    evergrant(SLOW, "compromise", "--connection", "google", "--replace", "--yes", "--wait", "0")
    with writing(evergrant.engine) as connection:
        assert connection.scalar(select(CandidateRow.expires_at)) < datetime.now(UTC)


@pytest.mark.parametrize("off", [FAST, SLOW])
def test_hours_ago_are_the_stores(evergrant, off):
    handed = [evergrant.grants.add(tenant="default", identity_user_id=who) for who in ("a", "b")]
    ago = dict(zip(handed, (timedelta(minutes=90), timedelta(minutes=150)), strict=True))
    with writing(evergrant.engine) as connection:
        records = [
            AuditRecord(
                at=datetime.now(UTC) - ago[grant],
                actor="key:app",
                verb="token_read",
                tenant="default",
                grant=grant,
            )
            for grant in handed
        ]
        AuditLog("test").append(connection, records)
    told = evergrant(off, "compromise", "--since", "2h", "--yes", "--wait", "0")
    assert told["grants"] == [str(handed[0])]
    assert evergrant(off, "erasure", "report", "--since", "10m")["grants"] == 1
