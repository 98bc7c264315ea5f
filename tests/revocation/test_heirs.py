"""C18 at the end of a grant: the refresh token that others live by is handed over, not revoked."""

from datetime import timedelta
from threading import Thread
from uuid import uuid4

import pytest
from sqlalchemy import select

from tests.store.test_merging import ROSA, Tenant, copy
from worker.domain.burial import COMPROMISED, Selection
from worker.domain.grant import GrantId
from worker.domain.refusals import TooWideError
from worker.domain.secret import Secret
from worker.revocation.compromise import Response
from worker.store import tombstones as tombstones_module
from worker.store.engine import reading
from worker.store.tables import OutboxRow

USER = "google-oauth2|104"
MIA = "google-oauth2|105"


@pytest.fixture
def holder(grants, vault):
    return grants.add(rt_fp=vault.fingerprint(Secret("rt-0")))


@pytest.fixture
def follower(grants, holder):
    return follows(grants, holder)


def follows(grants, holder, **columns):
    told = {"user_id": MIA, "identity_user_id": "105", "connection": "google-2"} | columns
    waits = {"refresh_token": None, "reason": "alias", "due_at": None}
    return grants.add(alias_of=holder, access_token="at-mia", generation=3, **waits, **told)


@pytest.fixture
def notices(engine):
    def notices():
        with reading(engine) as connection:
            asked = select(OutboxRow.kind, OutboxRow.grant_id).order_by(OutboxRow.id)
            return [(kind, grant) for kind, grant in connection.execute(asked)]

    return notices


@pytest.fixture
def spends(grants, vault):
    def spends(grant):
        row = grants.row(grant)
        bound = {"generation": row.generation, "kind": "rt", "key": row.refresh_key}
        secret = vault.open(row.refresh_token, tenant="acme", grant=GrantId(grant), **bound)
        assert row.rt_fp == vault.fingerprint(secret)
        return secret.text()

    return spends


async def test_whoever_follows_an_erased_holder_becomes_the_holder_and_is_renewed(
    grants, erasure, revoker, endpoint, holder, follower, spends, verbs, notices, clock
):
    """It was revoked under a living grant, which followed an erased one from then on."""
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {"shared": 1}
    assert endpoint.revoked == []
    row = grants.row(follower)
    assert (row.state, row.reason, row.alias_of, row.due_at) == ("active", None, None, clock.now())
    assert spends(follower) == "rt-0"
    ended = grants.row(holder)
    assert (ended.state, ended.refresh_token, ended.refresh_key) == ("erased", None, None)
    assert verbs(holder) == [("tombstoned", None), ("revocation", "shared"), ("erased", None)]
    assert verbs(follower) == [("refresh_token_inherited", None)]
    assert notices() == [("grant_revoked", holder)]


async def test_all_others_follow_the_heir(grants, erasure, revoker, holder, follower, spends):
    between = follows(grants, holder, user_id=USER, connection="google-3")
    others = [follows(grants, holder, state="suspect", identity_user_id="9")]
    others.append(follows(grants, between, state="suspect", identity_user_id="10"))
    await erasure.erase("acme", USER)
    await revoker.drain()
    assert spends(follower) == "rt-0"
    assert [grants.row(other).alias_of for other in others] == [follower, follower]
    assert grants.row(between).state == "erased"


async def test_one_that_ends_with_its_holder_inherits_nothing(
    grants, tombstones, revoker, endpoint, clock, holder, follower
):
    selection = Selection(tenant="acme", grant=holder, also=(follower,))
    tombstones.bury(selection, why="asked", actor="cli:ops", now=clock.now())
    assert await revoker.drain() == {"revoked": 1, "shared": 1}
    assert endpoint.revoked == ["rt-0"]


async def test_what_an_exchange_under_way_brings_is_handed_over_and_not_its_parent(
    grants, erasure, revoker, endpoint, clock, holder, follower, spends
):
    """I4: until it is sure to bring nothing the follower waits."""
    grants.set(holder, attempt=uuid4(), lease_until=clock.now() + timedelta(seconds=60))
    await erasure.erase("acme", USER)
    await revoker.drain()
    assert grants.row(follower).alias_of == holder
    parent = grants.row(holder).rt_fp
    grants.add_candidate(holder, "rt-1", why="tombstoned", parent_fp=parent)
    clock.advance(60)
    await revoker.drain()
    assert grants.row(follower).alias_of == holder
    clock.advance(3600)
    assert await revoker.drain() == {"shared": 1, "spared": 1}
    assert (endpoint.revoked, spends(follower)) == ([], "rt-1")


async def test_a_successor_that_waits_is_handed_over(
    grants, erasure, revoker, holder, follower, spends
):
    grants.add_candidate(holder, "rt-1", parent_fp=grants.row(holder).rt_fp)
    grants.add_candidate(follower, "rt-1", held_by=holder)
    await erasure.erase("acme", USER)
    await revoker.drain()
    assert spends(follower) == "rt-1"


async def test_who_comes_to_follow_while_the_provider_is_asked_is_told_that_it_is_over(
    grants, erasure, revoker, tombstones, holder, notices, monkeypatch
):
    settle, late = tombstones.settle, []

    def settle_later(*told, **more):
        late.append(follows(grants, holder))
        settle(*told, **more)

    monkeypatch.setattr(tombstones, "settle", settle_later)
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {"revoked": 1}
    (follower,) = late
    assert (grants.row(follower).alias_of, grants.row(follower).renewable) == (None, False)
    assert notices()[1:] == [("grant_needs_login", follower)]


async def test_an_heir_that_ends_meanwhile_gets_nothing(
    grants, erasure, revoker, tombstones, endpoint, clock, holder, follower, monkeypatch
):
    settle = tombstones.settle

    def settle_later(*told, **more):
        monkeypatch.undo()
        now = clock.now()
        tombstones.bury(Selection(tenant="acme", grant=follower), why="asked", actor="x", now=now)
        settle(*told, **more)

    monkeypatch.setattr(tombstones, "settle", settle_later)
    await erasure.erase("acme", USER)
    await revoker.drain()
    assert endpoint.revoked == ["rt-0"]
    assert [grants.row(one).state for one in (holder, follower)] == ["erased", "erased"]


async def test_one_that_took_other_tokens_meanwhile_has_the_token_sealed_anew(
    grants, erasure, revoker, tombstones, holder, follower, spends, monkeypatch
):
    """What was sealed is bound to the generation it had."""
    settle = tombstones.settle

    def settle_later(*told, **more):
        monkeypatch.undo()
        grants.set(follower, generation=4)
        settle(*told, **more)

    monkeypatch.setattr(tombstones, "settle", settle_later)
    await erasure.erase("acme", USER)
    await revoker.drain()
    assert spends(follower) == "rt-0"


async def test_a_kept_token_that_a_third_grant_came_to_hold_is_followed_there(
    grants, erasure, revoker, vault, holder, follower
):
    fp = vault.fingerprint(Secret("rt-1"))
    third = grants.add(user_id=MIA, connection="google-3", refresh_token="rt-1", rt_fp=fp)
    grants.add_candidate(holder, "rt-1", parent_fp=grants.row(holder).rt_fp)
    await erasure.erase("acme", USER)
    await revoker.drain()
    assert (grants.row(holder).state, grants.row(follower).alias_of) == ("erased", third)


async def test_whom_the_holder_of_a_quarantined_token_leaves_is_quarantined_too(
    grants, erasure, revoker, holder, follower
):
    """M8: somebody else spends it, whoever of us holds it."""
    grants.set(holder, state="quarantined", reason="shared_spender")
    await erasure.erase("acme", USER)
    await revoker.drain()
    row = grants.row(follower)
    told = (row.state, row.reason, row.alias_of, row.due_at)
    assert told == ("quarantined", "shared_spender", None, None)


async def test_what_has_leaked_is_revoked_under_a_follower_and_he_is_told_once(
    grants, tombstones, revoker, endpoint, clock, holder, follower, notices
):
    selection = Selection(tenant="acme", grant=holder)
    tombstones.bury(selection, why=COMPROMISED, actor="cli:ops", now=clock.now())
    assert await revoker.drain() == {"revoked": 1}
    assert endpoint.revoked == ["rt-0"]
    row = grants.row(follower)
    told = (row.state, row.renewable, row.reason, row.alias_of)
    assert told == ("active", False, "no_refresh_token", None)
    assert notices() == [("grant_revoked", holder), ("grant_needs_login", follower)]


async def test_a_ciphertext_that_does_not_open_is_handed_over_to_nobody(
    grants, erasure, revoker, holder, follower, notices
):
    grants.set(holder, refresh_token=b"\x01garbage")
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {"unreadable": 1}
    assert grants.row(follower).alias_of is None
    assert notices()[1:] == [("grant_needs_login", follower)]


async def test_followers_are_named_before_what_leaked_is_revoked(
    grants, compromise, holder, follower
):
    selection = Selection(tenant="acme", grant=holder)
    assert [one.id for one in (await compromise.plan(selection)).siblings] == [follower]
    with pytest.raises(TooWideError):
        await compromise.respond(selection, Response.REVOKE, actor="cli:ops")
    stopped = await compromise.respond(
        selection, Response.REVOKE, actor="cli:ops", include_siblings=True
    )
    assert set(stopped.grants) == {holder, follower}


async def test_one_that_followed_a_follower_is_led_on(
    grants, tombstones, revoker, clock, holder, follower
):
    last = follows(grants, follower, identity_user_id="9")
    tombstones.bury(
        Selection(tenant="acme", grant=follower), why="asked", actor="x", now=clock.now()
    )
    await revoker.drain()
    assert grants.row(last).alias_of == holder


async def test_nobody_comes_to_follow_a_grant_that_is_being_erased(
    erasure, tombstones, engine, vault, clock, monkeypatch
):
    """A merge that found the holder, and names it after it is gone, would have no holder."""
    tenant = Tenant(engine, vault, now=clock.now())
    tenant.pull(copy(rt="shared"))
    await erasure.erase("acme", ROSA)
    (buried,) = tombstones.ready(clock.now(), 10)
    other = copy(rt="shared", connection="google-2", identity="9", user_id=MIA)
    login = Thread(target=lambda: tenant.pull(other, user_id=MIA))
    look = tombstones_module.another_arrived

    def look_and_pause(*of):
        login.start()
        login.join(0.5)
        return look(*of)

    monkeypatch.setattr(tombstones_module, "another_arrived", look_and_pause)
    tombstones.settle(buried, [], next_at=None, now=clock.now())
    login.join()
    row = tenant.grant("9", "google-2")
    assert (row.alias_of, tenant.opened(row, "rt")) == (None, "shared")
