"""A keyring that is not the store's is refused at the start, before it seals anything (T14)."""

import os
import subprocess
import sys

import pytest

from tests.clock import FakeClock
from tests.grants import GrantTable
from worker import settings as _settings
from worker.bootstrap.first_start import first_start
from worker.bootstrap.working import Worker
from worker.domain.errors import ConfigurationError
from worker.store.engine import open_engine
from worker.vault import AesVault, Keyring, KeyringSource


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A store that holds a grant, with its keyring."""
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERGRANT_BROKER_URL", "memory://")
    monkeypatch.chdir(tmp_path)
    made = _settings.load()
    made.data_dir.mkdir()
    first_start(made)
    engine = open_engine(made.database_url)
    GrantTable(engine, AesVault.from_source(made.keyring), FakeClock()).add()
    engine.dispose()
    return made


@pytest.fixture
def wrong(settings, tmp_path):
    """The same store, and the keyring of another."""
    Keyring.create(tmp_path / "wrong.json")
    return settings.model_copy(update={"keyring": str(tmp_path / "wrong.json")})


@pytest.mark.parametrize("start", [first_start, Worker])
def test_the_wrong_keyring_is_refused_at_the_start(wrong, start):
    with pytest.raises(ConfigurationError, match="not this store's keyring"):
        start(wrong)


def test_a_worker_with_the_wrong_keyring_ends_with_a_line(wrong):
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "worker"],
        env={**os.environ, "EVERGRANT_KEYRING": wrong.keyring},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "point EVERGRANT_KEYRING to the right one" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_right_one_is_taken_before_and_after_a_rotation(settings):
    first_start(settings)
    KeyringSource(settings.keyring).edit(lambda ring: ring.rotate("rt").rotate("at"))
    first_start(settings)


def test_a_store_that_is_away_is_no_reason(settings, monkeypatch):
    """Renewed tokens may wait in the journal: a worker starts, and waits for the store."""
    away = "postgresql://nobody@127.0.0.1:1/none"
    Worker(settings.model_copy(update={"database_url": away})).close()
