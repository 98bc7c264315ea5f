from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.events.world import World


@pytest.fixture
def world(sqlite_engine: Engine, tmp_path: Path) -> World:
    return World(sqlite_engine, tmp_path)
