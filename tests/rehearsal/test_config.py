"""The configuration a stage writes is one the product reads."""

from __future__ import annotations

from pathlib import Path

from worker import settings
from worker.auth0.budget import PLANS
from worker.rehearsal import PLANS as REHEARSED
from worker.rehearsal import RunningStage, write_config


def test_the_product_reads_what_the_stage_wrote(stage: RunningStage, tmp_path: Path) -> None:
    path = write_config(tmp_path / "evergrant.toml", stage.stage)
    read = settings.load(
        {"EVERGRANT_CONFIG": str(path), "EVERGRANT_ALLOW_LOOPBACK": "1"}, directory=tmp_path
    )
    tenant = read.tenants["rehearsal"]
    assert tenant.base_url == stage.base_url
    assert tenant.client_id == stage.stage.settings.client_id
    assert "\n[tenants.rehearsal]\n" in path.read_text(), "as a person would write it"
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_plan_of_the_product_can_be_played() -> None:
    assert set(REHEARSED) - {"unlimited"} == set(PLANS)
