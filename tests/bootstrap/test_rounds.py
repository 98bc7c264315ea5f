"""Each tenant has rounds of its own: one that hangs delays no other's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from worker import settings as _settings
from worker.auth0 import open_client
from worker.bootstrap.base import Base, Role, intake_of, open_base
from worker.bootstrap.first_start import first_start
from worker.bootstrap.following import Following
from worker.bootstrap.pulling import Reading
from worker.bootstrap.rounds import TenantRounds
from worker.domain.errors import NotFoundError
from worker.domain.event import Trigger
from worker.rehearsal import RunningStage, StageSettings, rehearsal, write_configs
from worker.store.hints import HintRepository
from worker.store.inbox import InboxRepository

Two = tuple[Base, RunningStage, RunningStage]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    with ExitStack() as stack:
        busy, quiet = (
            stack.enter_context(rehearsal(StageSettings(domain=f"{name}.auth0.test")))
            for name in ("busy", "quiet")
        )
        config = tmp_path / "evergrant.toml"
        write_configs(config, {"busy": busy.stage, "quiet": quiet.stage})
        environment = {
            "EVERGRANT_CONFIG": str(config),
            "EVERGRANT_ALLOW_LOOPBACK": "1",
            "EVERGRANT_DATA_DIR": str(tmp_path / "data"),
            "EVERGRANT_BROKER_URL": "memory://",
        }
        settings = _settings.load(environment, directory=tmp_path)
        settings.data_dir.mkdir()
        first_start(settings)
        base = open_base(settings, Role.WORKER)
        stack.callback(base.close)
        yield base, busy, quiet


async def test_a_tenant_that_never_answers_keeps_no_other_from_being_polled(two: Two) -> None:
    base, busy, quiet = two
    async with open_client() as http:
        reading = Reading(base, http, vault=base.vault(), connections=base.connections())
        rounds = TenantRounds(base, reading, intake_of(base), tell=lambda _: None)
        periods = dict(rounds.all())
        await periods["poll_logs.quiet"][1]()  # the checkpoint stands
        busy.do("faults", provider="auth0", profile="hang", endpoint="management")
        quiet.login("google-oauth2", "rosa")
        following = Following(
            {name: one for name, one in periods.items() if name.startswith("poll_logs")},
            take=HintRepository(base.engine).take,
            clock=base.clock,
            offload=base.offload,
        )
        await following.begin()
        inbox = InboxRepository(base.engine)
        async with asyncio.timeout(30):
            while not inbox.counts():
                await asyncio.sleep(0.02)
        assert not following._running["poll_logs.busy"].done()
        following.stop()
        await asyncio.gather(*following._running.values(), return_exceptions=True)


async def test_with_a_connection_its_users_are_gone_and_no_event_need_name_them(two: Two) -> None:
    base, _, quiet = two
    async with open_client() as http:
        reading = Reading(base, http, vault=base.vault(), connections=base.connections())
        rounds = TenantRounds(base, reading, intake_of(base), tell=lambda _: None)
        user_id = quiet.login("google-oauth2", "rosa")
        await reading.puller.user("quiet", user_id)
        quiet.do("delete_connection", name="google-oauth2")
        with pytest.raises(NotFoundError):
            await reading.puller.connection("quiet", "google-oauth2")
        assert (await rounds.reconcile("quiet"))["orphaned_here"] == 1
    [row] = InboxRepository(base.engine).claim(
        now=base.clock.now(), lease_for=timedelta(seconds=9), limit=9
    )
    assert (row.event.trigger, row.event.user_id) == (Trigger.USER_DELETED, user_id)
