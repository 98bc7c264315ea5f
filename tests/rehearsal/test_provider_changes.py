"""A provider that changed under a running worker, as Bitbucket in May 2026 and Spotify in July did.

The worker goes by yesterday's facts, put back by an operator's keys; the stage plays today's.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.rehearsal.product import Product, product
from worker.domain.exchange import Rotation
from worker.domain.rotation import rules_for
from worker.rehearsal import ConnectionSpec, StageSettings, rehearsal
from worker.rehearsal.config import TENANT
from worker.store import outbox
from worker.store.engine import reading
from worker.store.learning import LearningRepository
from worker.store.tables import OutboxRow


@pytest.fixture
def hall():
    specs = [
        ConnectionSpec(name="repo", profile="bitbucket"),
        ConnectionSpec(name="files", profile="dropbox"),
    ]
    with rehearsal(StageSettings(connections=specs)) as stage:
        yield stage


def told(worker: Product) -> list[str]:
    asked = select(OutboxRow.episode).where(OutboxRow.kind == "provider_changed")
    with reading(worker.base.engine) as db:
        return list(db.execute(asked).scalars())


async def noticed(worker: Product) -> None:
    """It is learned beside the renewals, after their commit."""
    async with asyncio.timeout(10):
        while not told(worker):
            await asyncio.sleep(0.02)


YESTERDAY = """
[tenants.rehearsal.connections.repo]
rotation = "none"

[tenants.rehearsal.connections.files]
rotation = "single_use"
"""


async def test_a_provider_that_begins_to_rotate_is_told_once_and_trusted_less(
    hall, tmp_path: Path
) -> None:
    users = [hall.login("repo", f"user{n}") for n in range(4)]
    async with product(hall, tmp_path, more=YESTERDAY) as worker:
        for user in users:
            await worker.pull(user)
        assert await worker.renew("bitbucket") == {"renewed": 4}
        await noticed(worker)
        assert await worker.renew("bitbucket") == {"renewed": 4}  # spending what came
        changes = LearningRepository(worker.base.engine, tell=outbox.add).changes(TENANT)
        assert "4 of 4 grants so far" in changes["repo"][0]
        connection = worker.base.connections().get(TENANT, "repo")
        entry = worker.base.catalogue.entry("bitbucket", connection)
        assert entry.rotation is Rotation.N  # what is declared stays the operator's
        learned = "bitbucket" in connection.learned.rotating
        rules = rules_for(entry.rotation, grace_seconds=0, rotated_before=learned)
        assert rules.rotation is Rotation.F  # what is done does not
    assert len(told(worker)) == 1  # now that nothing is being learned any more
    for n in range(4):
        ledger = hall.grants(provider="bitbucket", subject=f"user{n}")[0]
        assert (ledger["exchanges"], ledger["reused"], ledger["families_lost"]) == (2, 0, 0)


async def test_a_provider_that_rotates_no_more_costs_no_refresh_token(hall, tmp_path: Path) -> None:
    """Others stored the answer as it came that summer, and with it nothing."""
    user = hall.login("files", "rosa")
    async with product(hall, tmp_path, more=YESTERDAY) as worker:
        await worker.pull(user)
        held = worker.opened(worker.grant(), "rt")
        worker.set(rotated_before=True)  # until yesterday
        assert await worker.renew("dropbox") == {"renewed": 1}
        await noticed(worker)
        assert worker.opened(worker.grant(), "rt") == held
        assert await worker.renew("dropbox") == {"renewed": 1}
    assert len(told(worker)) == 1
    assert hall.grants(provider="dropbox", subject="rosa")[0]["exchanges"] == 2
