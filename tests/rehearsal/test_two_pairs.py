"""Slack: one login brings the bot's pair and the user's; they are two grants of one account."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rehearsal.product import product
from worker.api.answers import token_answer
from worker.cli.context import master_key
from worker.domain.errors import NotFoundError
from worker.domain.grant import GrantPart
from worker.domain.held import Ask
from worker.handout import Handout
from worker.rehearsal import ConnectionSpec, StageSettings, rehearsal
from worker.rehearsal.config import TENANT
from worker.store.handout import HandoutRepository


@pytest.fixture
def hall():
    specs = [
        ConnectionSpec(name="both", profile="slack-both"),
        ConnectionSpec(name="one", profile="slack"),
    ]
    with rehearsal(StageSettings(connections=specs)) as stage:
        yield stage


def handout_of(base):
    return Handout(
        grants=HandoutRepository(base.engine, base.audit),
        vault=base.vault(),
        hints=base.hints,
        clock=base.clock,
        offload=base.offload,
    )


async def handed(base, user_id, part, connection="both"):
    ask = Ask(tenant=TENANT, connection=connection, user_id=user_id, part=part)
    return token_answer(await handout_of(base).token(master_key(), ask))["access_token"]


async def test_both_pairs_are_kept_renewed_and_handed_out_apart(hall, tmp_path: Path) -> None:
    user_id = hall.login("both", "rosa")
    found = hall.stage.tenant.users[user_id].identities[0]
    async with product(hall, tmp_path) as worker:
        await worker.pull(user_id)
        bot, user = worker.grant(part="bot"), worker.grant(part="user")
        assert worker.opened(bot, "at").text() == found.access_token
        assert worker.opened(user, "at").text() == found.more["authed_user"]["access_token"]
        assert worker.opened(user, "rt").text() == found.more["authed_user"]["refresh_token"]
        assert user.scope == found.more["authed_user"]["scope"]
        assert user.identity_user_id == bot.identity_user_id
        assert await worker.renew("slack") == {"renewed": 2}
        await worker.pull(user_id)  # Auth0's copy is stale for both now, and changes nothing
        renewed = {part: worker.grant(part=part) for part in ("bot", "user")}
        assert all(row.generation == 1 for row in renewed.values())
        tokens = {part: await handed(worker.base, user_id, GrantPart(part)) for part in renewed}
        assert tokens == {p: worker.opened(row, "at").text() for p, row in renewed.items()}
        assert tokens["bot"] != tokens["user"]
    ledger = hall.grants(provider="slack-both", subject="rosa")[0]
    assert (ledger["exchanges"], ledger["reused"], ledger["families_lost"]) == (2, 0, 0)


async def test_a_single_pair_is_the_users_as_ever(hall, tmp_path: Path) -> None:
    user_id = hall.login("one", "rosa")
    async with product(hall, tmp_path) as worker:
        await worker.pull(user_id)
        assert worker.grant().part == "user"
        assert await handed(worker.base, user_id, GrantPart.USER, "one")
        with pytest.raises(NotFoundError):
            await handed(worker.base, user_id, GrantPart.BOT, "one")


async def test_a_new_login_and_an_unlinked_account_take_both_along(hall, tmp_path: Path) -> None:
    user_id = hall.login("both", "rosa")
    async with product(hall, tmp_path) as worker:
        await worker.pull(user_id)
        before = {part: worker.grant(part=part).rt_fp for part in ("bot", "user")}
        hall.login("both", "rosa")
        await worker.pull(user_id)
        after = {part: worker.grant(part=part) for part in ("bot", "user")}
        assert all(after[part].rt_fp != before[part] for part in before)
        assert {row.family for row in after.values()} == {1}
        second = hall.login("one", "vera")
        hall.do("link", primary=second, secondary=user_id)
        await worker.pull(second)
        assert owners(worker) == {second}
        hall.do("unlink", primary=second, connection="both", subject="rosa")
        await worker.pull(second)
        assert owners(worker) == {user_id}


def owners(worker):
    return {worker.grant(part=part, connection="both").user_id for part in ("bot", "user")}
