"""Instagram and Facebook, from a login to a token of weeks, by the product's own parts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.rehearsal.product import DAY, product
from worker.rehearsal import ConnectionSpec, RunningStage, StageSettings, rehearsal


@pytest.fixture
def hall() -> Iterator[RunningStage]:
    specs = [
        ConnectionSpec(name="photos", profile="instagram"),
        ConnectionSpec(name="friends", profile="facebook"),
    ]
    with rehearsal(StageSettings(connections=specs)) as stage:
        yield stage


async def test_the_token_of_a_login_is_exchanged_before_it_is_renewed(
    hall: RunningStage, tmp_path: Path
) -> None:
    user_id = hall.login("photos", "rosa")
    async with product(hall, tmp_path) as worker:
        await worker.pull(user_id)
        row = worker.grant()
        assert row.not_before is None  # the day of patience is for what can be renewed
        assert row.due_at - row.issued_at < timedelta(hours=1)
        assert await worker.renew("instagram") == {"renewed": 1}
        row = worker.grant()
        assert row.expires_at - row.issued_at == 60 * DAY
        assert row.not_before - row.issued_at == DAY
        assert 29 * DAY < row.due_at - row.issued_at < 41 * DAY
        assert await worker.renew("instagram") == {"postponed": 1}  # not on the first day
        hall.stage.pass_time(2 * 86_400)
        worker.set(not_before=row.issued_at)
        assert await worker.renew("instagram") == {"renewed": 1}
    ledger = hall.grants(provider="instagram", subject="rosa")[0]
    assert (ledger["exchanges"], ledger["refused"]) == (2, 0)


async def test_who_has_not_come_for_ninety_days_is_asked_to_and_no_longer_renewed(
    hall: RunningStage, tmp_path: Path
) -> None:
    user_id = hall.login("friends", "rosa")
    async with product(hall, tmp_path) as worker:
        await worker.pull(user_id)
        assert await worker.renew("facebook") == {"renewed": 1}
        row = worker.grant()
        worker.set(logged_in_at=row.issued_at - 90 * DAY)
        assert await worker.renew("facebook") == {"postponed": 1}
        row = worker.grant()
        assert (row.renewable, row.reason, row.state) == (False, "user_inactive", "active")
        assert row.access_token is not None  # served to its end
        hall.login("friends", "rosa")
        await worker.pull(user_id)
        row = worker.grant()
        assert (row.renewable, row.reason) == (True, None)
        assert await worker.renew("facebook") == {"renewed": 1}
