"""A deleted user: nothing served, everything revoked, the keys gone, and a receipt of it (I14)."""

from datetime import timedelta
from threading import Thread
from uuid import uuid4

import pytest
from sqlalchemy import select

from tests.store.test_merging import ROSA, Tenant, copy
from worker.domain.burial import Selection
from worker.domain.errors import TamperError
from worker.domain.exchange import Uncertain
from worker.store import tombstones as tombstones_module
from worker.store.engine import reading, writing
from worker.store.pulls import PullRepository, still_latest, user_subject
from worker.store.tables import CandidateRow, OutboxRow
from worker.vault import AesVault, TenantVaults

USER = "google-oauth2|104"


async def test_a_deleted_user_is_revoked_upstream_and_unreadable_here(
    grants, erasure, revoker, endpoint, verbs
):
    grant = grants.add()
    bystander = grants.add(user_id="google-oauth2|105", identity_user_id="105")
    assert await erasure.erase("acme", USER) == [grant]
    assert await revoker.drain() == {"revoked": 1}
    assert endpoint.revoked == ["rt-0"]
    row = grants.row(grant)
    assert row.state == "erased"
    held = (row.access_token, row.refresh_token, row.access_key, row.refresh_key, row.rt_fp)
    assert held == (None,) * 5
    assert verbs(grant) == [("tombstoned", None), ("revocation", "revoked"), ("erased", None)]
    assert grants.row(bystander).state == "active"


async def test_from_the_tombstone_on_no_exchange_begins(grants, erasure, clock):
    """Nothing is due, and an exchange under way has lost its fence: its answer is a candidate."""
    grant = grants.add(fence=7)
    await erasure.erase("acme", USER)
    row = grants.row(grant)
    assert (row.due_at, row.fence, row.state) == (None, 8, "tombstoned")


async def test_deleting_twice_deletes_once(grants, erasure, revoker, verbs, engine):
    grant = grants.add()
    await erasure.erase("acme", USER)
    assert await erasure.erase("acme", USER) == []
    await revoker.drain()
    assert await erasure.erase("acme", USER) == []
    assert await revoker.drain() == {}
    assert len(verbs(grant)) == 3
    with reading(engine) as connection:
        told = connection.execute(select(OutboxRow.kind, OutboxRow.episode)).all()
    assert told == [("grant_revoked", f"revoked:{grant}")]


async def test_tokens_that_arrive_after_the_deletion_are_revoked_too(
    grants, erasure, revoker, endpoint, clock
):
    """C20: the exchange was under way; its successor would live on at the provider."""
    grant = grants.add(attempt=uuid4(), lease_until=clock.now() + timedelta(seconds=120), fence=1)
    await erasure.erase("acme", USER)
    await revoker.drain()
    assert grants.row(grant).state == "revoking"
    grants.add_candidate(grant, "rt-1")
    clock.advance(60)
    await revoker.drain()
    assert endpoint.revoked == ["rt-0", "rt-1"]
    assert grants.row(grant).access_key is not None
    clock.advance(3600)
    await revoker.drain()
    assert (grants.row(grant).state, grants.row(grant).access_key) == ("erased", None)


async def test_a_candidate_that_slips_in_at_the_last_moment_is_not_shredded_unrevoked(
    grants, erasure, revoker, endpoint, tombstones, clock
):
    grant = grants.add()
    await erasure.erase("acme", USER)
    (buried,) = tombstones.ready(clock.now(), 10)
    grants.add_candidate(grant, "rt-1")
    tombstones.settle(buried, [], next_at=None, now=clock.now())
    assert grants.row(grant).state == "revoking"
    await revoker.drain()
    assert "rt-1" in endpoint.revoked
    assert grants.row(grant).state == "erased"


async def test_nor_is_a_login_that_is_merged_between_the_last_look_and_the_end(
    grants, erasure, tombstones, engine, vault, clock, monkeypatch
):
    """I14: it waits until all is erased, and is then refused; or it is found, and revoked."""
    grants.add(user_id=ROSA, identity_user_id="1", connection="google-oauth2")
    await erasure.erase("acme", ROSA)
    (buried,) = tombstones.ready(clock.now(), 10)
    tenant = Tenant(engine, vault, now=clock.now())
    login = Thread(target=lambda: tenant.pull(copy(rt="rt-new", at="at-new", login="2:again")))
    look = tombstones_module.another_arrived

    def look_and_pause(*of):
        found = look(*of)
        login.start()
        login.join(0.5)  # it does not get through meanwhile
        return found

    monkeypatch.setattr(tombstones_module, "another_arrived", look_and_pause)
    tombstones.settle(buried, [], next_at=None, now=clock.now())
    login.join()
    assert (tenant.grant().state, tenant.candidates()) == ("erased", [])
    assert "candidate_kept" not in [record.verb for record in tenant.audit.records]


async def test_a_provider_that_is_away_is_asked_again(
    grants, erasure, revoker, endpoint, clock, verbs
):
    grant = grants.add()
    endpoint.outcomes = [503, Uncertain(reason="timeout")]
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {"later": 1}
    assert await revoker.drain() == {}  # the pause is kept
    clock.advance(10)
    assert await revoker.drain() == {"later": 1}
    clock.advance(20)
    assert await revoker.drain() == {"revoked": 1}
    assert grants.row(grant).state == "erased"
    assert [outcome for verb, outcome in verbs(grant) if verb == "revocation"] == [
        "later",
        "later",
        "revoked",
    ]


async def test_patience_ends_and_the_receipt_does_not_say_revoked(
    grants, erasure, revoker, endpoint, clock, tombstones
):
    """Keys are not kept for ever because a provider is gone; but nothing is claimed either."""
    grant = grants.add()
    await erasure.erase("acme", USER)
    clock.advance(8 * 86_400)
    endpoint.outcomes = [503]
    assert await revoker.drain() == {"gave_up": 1}
    assert grants.row(grant).state == "erased"
    gave_up = tombstones.receipt(grant)[1].detail
    assert gave_up["by_hand"] == "At https://provider.example/apps."


async def test_a_tenant_whose_keyring_is_shut_holds_up_no_others_deletions(
    grants, erasure, revoker, vault, clock, tmp_path, verbs
):
    """Its own wait for it, and end all the same when patience does."""
    mine, other = grants.add(), grants.add(tenant="beta")
    shut = TenantVaults(vault, {"acme": str(tmp_path / "none")}, open_=AesVault.from_source)
    revoker._vault = shut
    await erasure.erase("acme", USER)
    await erasure.erase("beta", USER)
    assert await revoker.drain() == {"later": 1, "revoked": 1}
    assert grants.row(other).state == "erased"
    assert grants.row(mine).state != "erased"
    clock.advance(8 * 86_400)
    assert await revoker.drain() == {"gave_up": 1}
    assert grants.row(mine).state == "erased"
    assert grants.row(mine).refresh_key is None
    assert [outcome for verb, outcome in verbs(mine) if verb == "revocation"] == [
        "later",
        "gave_up",
    ]


@pytest.mark.parametrize(
    ("offers", "status", "outcome"), [(False, 200, "not_offered"), (True, 400, "refused")]
)
async def test_deleted_here_is_not_called_revoked_there(
    grants, erasure, revoker, provider, endpoint, tombstones, offers, status, outcome
):
    grant = grants.add()
    provider.offers, endpoint.outcomes = offers, [status]
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {outcome: 1}
    receipt = tombstones.receipt(grant)
    assert [entry.verb for entry in receipt] == ["tombstoned", "revocation", "erased"]
    assert receipt[1].detail["by_hand"] == "At https://provider.example/apps."


async def test_where_one_token_is_revoked_at_a_time_the_access_token_follows(
    grants, erasure, revoker, provider, endpoint
):
    provider.revocation_effect = "token"
    grants.add()
    await erasure.erase("acme", USER)
    await revoker.drain()
    assert endpoint.revoked == ["rt-0", "at-0"]


async def test_a_shared_refresh_token_is_not_revoked_under_its_holder(
    grants, revoker, endpoint, tombstones, clock
):
    holder = grants.add()
    alias = grants.add(connection="google-2", alias_of=holder, refresh_token=None)
    selection = Selection(tenant="acme", grant=alias)
    tombstones.bury(selection, why="asked", actor="cli:ops", now=clock.now())
    assert await revoker.drain() == {"shared": 1}
    assert endpoint.revoked == []
    assert (grants.row(alias).state, grants.row(holder).state) == ("erased", "active")


async def test_nor_is_one_that_was_only_kept_beside_its_own(
    grants, revoker, endpoint, tombstones, clock
):
    """C18: it came for this grant, and another held it; to revoke it may end that one's consent."""
    holder = grants.add(refresh_token="rt-9", identity_user_id="105", user_id="google-oauth2|105")
    grant = grants.add()
    grants.add_candidate(grant, "rt-9", held_by=holder)
    selection = Selection(tenant="acme", grant=grant)
    tombstones.bury(selection, why="asked", actor="cli:ops", now=clock.now())
    assert await revoker.drain() == {"shared": 1, "revoked": 1}
    assert endpoint.revoked == ["rt-0"]


async def test_a_ciphertext_that_does_not_open_holds_up_nothing(grants, erasure, revoker):
    grant = grants.add()
    grants.set(grant, refresh_token=b"\x01garbage")
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {"unreadable": 1}
    assert grants.row(grant).state == "erased"


async def test_a_pull_that_began_before_the_deletion_does_not_merge(grants, erasure, engine, clock):
    """Nothing brings it back: the read was of a user who lived."""
    grants.add()
    begun = PullRepository(engine).begin("acme", user_subject(USER), now=clock.now())
    await erasure.erase("acme", USER)
    with writing(engine) as connection:
        assert not still_latest(connection, begun)


async def test_a_crash_between_revoking_and_erasing_is_made_good(
    grants, erasure, revoker, tombstones, clock, endpoint
):
    """The lease lapses; asking twice does no harm."""
    grant = grants.add()
    await erasure.erase("acme", USER)
    assert len(tombstones.ready(clock.now(), 10)) == 1  # a revoker that dies here
    assert await revoker.drain() == {}
    clock.advance(120)
    await revoker.drain()
    assert grants.row(grant).state == "erased"


async def test_what_is_erased_cannot_be_opened_from_a_copy_of_the_row(
    grants, erasure, revoker, vault
):
    """The data key was the grant's own; the copy's ciphertext outlives it, unreadable."""
    grant = grants.add()
    copy = grants.row(grant)
    await erasure.erase("acme", USER)
    await revoker.drain()
    access_key, _ = vault.new_keys("acme", grant)
    with pytest.raises(TamperError):
        vault.open(
            copy.access_token, tenant="acme", grant=grant, generation=0, kind="at", key=access_key
        )


async def test_candidates_are_erased_with_the_rest(grants, erasure, revoker, engine, endpoint):
    grant = grants.add()
    grants.add_candidate(grant, "rt-old", why="superseded_family")
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {"revoked": 2}
    assert sorted(endpoint.revoked) == ["rt-0", "rt-old"]
    with reading(engine) as connection:
        assert connection.execute(select(CandidateRow.id)).all() == []


async def test_a_client_secret_that_does_not_open_is_waited_for(
    grants, erasure, revoker, monkeypatch
):
    """An operator can put it right; the tokens must not be shredded unrevoked meanwhile."""

    def tampered(_tenant, _name):
        raise TamperError("google: does not open")

    grant = grants.add()
    monkeypatch.setattr(revoker._connections, "get", tampered)
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {"later": 1}
    assert grants.row(grant).refresh_key is not None


async def test_an_access_token_that_ends_alone_is_not_called_the_whole(
    grants, erasure, revoker, provider, endpoint, tombstones
):
    """The provider takes no refresh token: that it may live on is what the receipt says."""
    provider.revocation_effect, provider.takes = "token", "access_token"
    grant = grants.add()
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {"partly": 1}
    assert endpoint.revoked == ["at-0"]
    assert tombstones.receipt(grant)[1].detail["by_hand"] == "At https://provider.example/apps."


async def test_an_access_token_that_had_ended_proves_nothing_of_the_consent(
    grants, erasure, revoker, provider, endpoint
):
    """An authorization is ended through a living access token; a dead one ends nothing."""
    provider.revocation_effect, provider.takes = "grant", "access_token"
    provider.dead = 401
    grants.add()
    endpoint.outcomes = [401]
    await erasure.erase("acme", USER)
    assert await revoker.drain() == {"partly": 1}
    grants.add(identity_user_id="7", user_id="google-oauth2|7", refresh_token="rt-7")
    await erasure.erase("acme", "google-oauth2|7")
    assert await revoker.drain() == {"revoked": 1}
