"""What the worker does by the hour, run as the scheduler's hints run it."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import insert

from tests.store.test_audit import RECORD
from worker import settings as _settings
from worker.bootstrap.first_start import first_start
from worker.bootstrap.working import ANCHORS, JOBS, Worker
from worker.store.audit import AuditLog
from worker.store.engine import writing
from worker.store.tables import CandidateRow


@pytest.fixture
def worker(tmp_path):
    environment = {
        "EVERGRANT_DATA_DIR": str(tmp_path / "data"),
        "EVERGRANT_BROKER_URL": "memory://",
    }
    settings = _settings.load(environment, directory=tmp_path)
    settings.data_dir.mkdir()
    first_start(settings)
    made = Worker(settings)
    yield made
    made.close()


@pytest.mark.parametrize("job", JOBS)
def test_every_job_runs_on_an_empty_store(worker, job):
    counts = worker.upkeep(job)
    assert all(isinstance(count, int) for count in counts.values())


def test_the_audits_ends_are_noted_outside_the_database(worker):
    base = worker._base
    with writing(base.engine) as connection:
        AuditLog("n1").append(connection, [RECORD])
    assert worker.upkeep("anchor") == {"heads": 1}
    assert (base.settings.data_dir / ANCHORS).stat().st_mode & 0o077 == 0


def test_anchors_that_were_changed_are_said_and_not_written_on(worker):
    """The task gives up with the reason in its log; nothing is appended to evidence."""
    base = worker._base
    (base.settings.data_dir / ANCHORS).write_text('{"at":"x","heads":[],"previous":"","tag":""}\n')
    with pytest.raises(Exception, match="not as we wrote it"):
        worker.upkeep("anchor")


def test_what_is_done_with_is_forgotten(worker):
    base = worker._base
    old = base.clock.now() - timedelta(days=20)
    row = {"grant_id": uuid4(), "generation": 1, "family": 0, "rt_fp": b"1", "why": "parent"}
    sealed = {"refresh_token": b"x", "issued_at": old, "created_at": old, "spent_at": old}
    with writing(base.engine) as connection:
        connection.execute(insert(CandidateRow), [{**row, **sealed}])
    assert worker.upkeep("purge")["candidates"] == 1
