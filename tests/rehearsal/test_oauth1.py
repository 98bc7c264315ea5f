"""X, OAuth 1.0a: from a login to an app that can sign, and back to the provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rehearsal.product import product
from worker.api.answers import token_answer
from worker.bootstrap.ending import reach_of, tombstones_of
from worker.cli.context import master_key
from worker.domain.burial import Selection
from worker.domain.held import Ask
from worker.handout import Handout
from worker.providers import HttpTokenEndpoint
from worker.rehearsal import ConnectionSpec, StageSettings, rehearsal
from worker.rehearsal.config import TENANT
from worker.revocation import Revoker
from worker.store.handout import HandoutRepository


@pytest.fixture
def hall():
    specs = [ConnectionSpec(name="x", profile="twitter")]
    with rehearsal(StageSettings(connections=specs)) as stage:
        yield stage


async def test_token_and_secret_reach_the_app_and_the_provider_that_ends_them(
    hall, tmp_path: Path
) -> None:
    user_id = hall.login("x", "rosa")
    found = hall.stage.tenant.users[user_id].identities[0]
    async with product(hall, tmp_path) as worker:
        base = worker.base
        await worker.pull(user_id)
        row = worker.grant()
        assert (row.provider, row.renewable, row.expiry) == ("twitter", False, "never")
        handout = Handout(
            grants=HandoutRepository(base.engine, base.audit),
            vault=base.vault(),
            hints=base.hints,
            clock=base.clock,
            offload=base.offload,
        )
        ask = Ask(tenant=TENANT, connection="x", user_id=user_id)
        answer = token_answer(await handout.token(master_key(), ask))
        assert answer["access_token"] == found.access_token
        assert answer["access_token_secret"] == found.access_token_secret
        assert found.access_token_secret.encode() not in row.access_token

        tombstones = tombstones_of(base)
        chosen = Selection(tenant=TENANT, user_id=user_id)
        tombstones.bury(chosen, why="asked", actor="test", now=base.clock.now())
        endpoint = HttpTokenEndpoint(allow_loopback=True)
        revoker = Revoker(
            tombstones=tombstones,
            connections=base.connections(),
            reach=reach_of(base, base.connections()),
            catalogue=base.catalogue,
            endpoint=endpoint,
            vault=base.vault(),
            clock=base.clock,
            offload=base.offload,
        )
        assert await revoker.drain() == {"revoked": 1}
        await endpoint.close()
        assert worker.grant().access_token is None
    assert hall.grants(provider="twitter", subject="rosa")[0]["revoked_by_us"] == 1


async def test_a_token_that_is_no_pair_has_no_secret_to_tell(hall, tmp_path: Path) -> None:
    user_id = hall.login("x", "rosa")
    hall.stage.tenant.users[user_id].identities[0].access_token_secret = None
    async with product(hall, tmp_path) as worker:
        await worker.pull(user_id)
        row = worker.grant()
        assert "\x00" not in worker.opened(row, "at").text()
