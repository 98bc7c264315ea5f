"""The short form of `make bench BENCH=storm`: real web process, real inbox, real processor."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import bench_storm
from worker.store import migrate
from worker.store.engine import open_engine


def test_of_a_storm_with_repeats_nothing_is_lost_and_nothing_done_twice(
    postgres_url: str, tmp_path: Path
) -> None:
    """I2: whatever was answered 202 is worked off, once, though it came in any order and twice."""
    migrate.upgrade(open_engine(postgres_url))
    assert bench_storm.run(postgres_url, str(tmp_path / "spool"), 2000) == 0
