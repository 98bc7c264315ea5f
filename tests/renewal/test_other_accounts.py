"""An answer for somebody else: kept aside, alarmed, and never handed to the wrong user."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from tests.planted import candidates_of, opened, row_of
from tests.renewal.test_uncertain import live
from tests.simulation.virtual_time import run
from tests.simulation.world import PROVIDER, Fault
from worker.domain.exchange import Rotation
from worker.domain.grant import GrantKey, GrantPart, is_account_of
from worker.store.engine import reading, writing
from worker.store.tables import GrantRow, OutboxRow

HOUR = timedelta(hours=1)


def told(**more):
    def mangle(answer):
        return replace(answer, body=json.dumps(json.loads(answer.body) | more).encode())

    return lambda _: Fault(mangle=mangle)


def notices(w):
    with reading(w.store) as db:
        return list(db.execute(select(OutboxRow.kind)).scalars())


@pytest.mark.parametrize("rotation", [Rotation.S, Rotation.F])
def test_tokens_of_another_account_are_never_served_nor_spent(world, rotation):
    async def story():
        w = world(rotation)
        w.network.faults = told(account="mallory")
        grant = w.plant(identity="rosa")
        process = w.start()
        await process.drain()
        row = row_of(w.store, grant)
        assert (row.renewable, row.reason, row.due_at) == (False, "other_account", None)
        assert opened(w.store, w.vault, grant, "at") == "a0"
        assert [one.why for one in candidates_of(w.store, grant)] == ["other_account"]
        assert notices(w) == ["grant_other_account"]
        with writing(w.store) as db:  # whatever makes it due again
            db.execute(GrantRow.__table__.update().values(due_at=w.now(), renewable=True))
        await process.drain()
        assert [token for _, token in w.network.sent] == ["r0", "r0"]
        assert row_of(w.store, grant).user_id.endswith("rosa")

    run(story())


@pytest.mark.parametrize("rotation", [Rotation.M, Rotation.S, Rotation.F])
@pytest.mark.parametrize("late", [False, True])
def test_a_crash_between_those_tokens_and_the_verdict_does_not_send_their_parent_again(
    world, rotation, late
):
    """C10, I4: what a journal brings ends the grant as its attempt would have, and is told once;
    also where it comes once nobody holds the grant any more."""

    async def story():
        w = world(rotation)
        w.network.faults = told(account="mallory")
        grant = w.plant(identity="rosa")
        doomed, heir = w.start(), w.start()
        w.at_step = lambda who, step: who.kill() if (who, step) == (doomed, "settle") else None
        asyncio.get_running_loop().create_task(doomed.drain(budget=5))
        await asyncio.sleep(2)
        w.at_step = lambda _who, _step: None
        if late:
            with writing(w.store) as db:  # as if somebody had put it off meanwhile
                db.execute(GrantRow.__table__.update().values(attempt=None, due_at=w.now() + HOUR))
        await live([heir], 1300, tick=5)
        await live([heir], 4000, tick=60)
        row = row_of(w.store, grant)
        assert [token for _, token in w.network.sent] == ["r0"]
        assert (row.renewable, row.reason, row.due_at) == (False, "other_account", None)
        assert row.attempt is None
        assert opened(w.store, w.vault, grant, "at") == "a0"
        assert notices(w) == ["grant_other_account"]

    run(story())


def test_the_same_account_and_an_answer_that_does_not_tell_are_renewals(world):
    async def story():
        w = world(Rotation.F)
        for account in ("rosa", None):
            w.network.faults = told(account=account)
            w.plant(f"r-{account}", identity="rosa" if account else "emil")
            assert await w.start().drain() == {"renewed": 1}

    run(story())


def test_auth0s_way_to_write_an_account_is_known():
    def of(identity, part=GrantPart.USER):
        key = GrantKey(tenant="t", connection="c", identity_user_id=identity, part=part)
        return is_account_of(key, "104")

    assert of("104")
    assert of("acme-oidc|104")
    assert not of("1104")
    assert not of("105")
    assert of("con_1", GrantPart.ADMIN)


def test_a_scope_that_is_required_and_does_not_come_again_is_told_once(world):
    async def story():
        w = world(Rotation.N)
        w.network.faults = told(scope="mail.read")
        grant = w.plant(scope="mail.read files.read")
        process = w.start()
        process.engine._resolver._connections._overrides = {
            ("acme", PROVIDER): {"required_scopes": ["files.read"]}
        }
        for _ in range(2):
            assert await process.drain() == {"renewed": 1}
            with writing(w.store) as db:
                db.execute(GrantRow.__table__.update().values(due_at=w.now()))
        assert notices(w) == ["grant_lacks_scope"]
        assert row_of(w.store, grant).scope == "mail.read"

    run(story())
