"""A provider that ends the whole consent: what hangs on it is named, asked for, or spared."""

from __future__ import annotations

import pytest

from tests.handout.conftest import in_place
from worker.domain.access import ApiKey, Scope, Verb
from worker.domain.burial import Selection
from worker.domain.held import Ask
from worker.domain.refusals import TooWideError
from worker.revocation import Requests, Response
from worker.store.audit import AuditLog
from worker.store.connections import ConnectionRepository
from worker.store.handout import HandoutRepository

KEY = ApiKey(name="app", digest=b"", scopes=(Scope(verbs=frozenset({Verb.REVOKE})),))
PEERS = [("acme", "google"), ("acme", "workspace"), ("other", "google")]


@pytest.fixture
def whole_consent(provider):
    """Google's way; three connections, one of them another tenant's, are one client there."""
    provider.revocation_effect, provider.peers = "app", PEERS


@pytest.fixture
def requests(engine, tombstones, reach, clock):
    return Requests(
        grants=HandoutRepository(engine, AuditLog("test")),
        tombstones=tombstones,
        reach=reach,
        clock=clock,
        offload=in_place,
    )


SIBLINGS = {
    "another connection of the same user": {"connection": "workspace"},
    "another user, not linked": {"connection": "workspace", "user_id": "oidc|workspace|104"},
    "an account told with its connection": {
        "connection": "workspace",
        "identity_user_id": "workspace|104",
    },
    "another tenant with the same client": {"tenant": "other"},
}
NO_SIBLINGS = {
    "another account": {"connection": "workspace", "identity_user_id": "105"},
    "another client": {"connection": "elsewhere"},
    "one that is gone": {"connection": "workspace", "state": "erased"},
}
ASK = Ask(tenant="acme", connection="google", user_id="google-oauth2|104")


@pytest.mark.parametrize("columns", SIBLINGS.values(), ids=SIBLINGS)
async def test_what_would_end_too_is_refused_and_with_consent_given_up(
    grants, requests, revoker, endpoint, whole_consent, columns
):
    grant = grants.add()
    sibling = grants.add(refresh_token="rt-s", **columns)
    with pytest.raises(TooWideError) as refused:
        await requests.revoke(KEY, ASK)
    assert refused.value.siblings == (sibling,)
    assert grants.row(grant).state == "active"
    begun = await requests.revoke(KEY, ASK, include_siblings=True)
    assert begun.siblings == (sibling,)
    assert await revoker.drain() == {"revoked": 2}
    assert sorted(endpoint.revoked) == ["rt-0", "rt-s"]
    assert {grants.row(one).state for one in (grant, sibling)} == {"erased"}


@pytest.mark.parametrize("columns", NO_SIBLINGS.values(), ids=NO_SIBLINGS)
async def test_what_does_not_end_with_it_is_in_nobodys_way(
    grants, requests, revoker, whole_consent, columns
):
    grant = grants.add()
    other = grants.add(refresh_token="rt-o", **columns)
    await requests.revoke(KEY, ASK)
    assert await revoker.drain() == {"revoked": 1}
    assert grants.row(grant).state == "erased"
    assert grants.row(other).refresh_token is not None


async def test_a_deleted_user_does_not_take_another_users_consent_along(
    grants, erasure, revoker, endpoint, tombstones, whole_consent
):
    """Nobody can be asked at a deletion: the one who lives is spared, and the receipt says so."""
    grant = grants.add()
    living = grants.add(connection="workspace", user_id="oidc|104", refresh_token="rt-s")
    await erasure.erase("acme", "google-oauth2|104")
    assert await revoker.drain() == {"spared": 1}
    assert endpoint.revoked == []
    assert (grants.row(grant).state, grants.row(living).state) == ("erased", "active")
    [receipt] = [e.detail for e in tombstones.receipt(grant) if e.verb == "revocation"]
    assert (receipt["living"], receipt["by_hand"]) == (1, "At https://provider.example/apps.")


async def test_somebody_who_logs_in_meanwhile_is_spared(
    grants, requests, revoker, endpoint, whole_consent
):
    """Asked for while there was no sibling; by the time a worker asks the provider there is."""
    grants.add()
    await requests.revoke(KEY, ASK)
    grants.add(connection="workspace", refresh_token="rt-new")
    assert await revoker.drain() == {"spared": 1}
    assert endpoint.revoked == []


async def test_a_leak_is_answered_for_siblings_only_if_they_are_meant(
    grants, compromise, whole_consent
):
    meant = [grants.add(), grants.add(identity_user_id="105", refresh_token="rt-5")]
    sibling = grants.add(connection="workspace", refresh_token="rt-s")
    selection = Selection(tenant="acme", connection="google")
    plan = await compromise.plan(selection)
    assert (plan.grants, [one.id for one in plan.siblings]) == (2, [sibling])
    with pytest.raises(TooWideError):
        await compromise.respond(selection, Response.REVOKE, actor="cli:ada")
    assert {grants.row(one).state for one in (*meant, sibling)} == {"active"}
    stopped = await compromise.respond(
        selection, Response.REVOKE, actor="cli:ada", include_siblings=True
    )
    assert sorted(stopped.grants) == sorted([*meant, sibling])


def test_connections_of_one_client_are_found_as_the_operator_set_them(engine, vault, grants):
    grants.add_connection("google", client_id="ours")
    grants.add_connection("workspace", client_id="auth0-says-another")
    grants.add_connection("stranger", client_id="theirs")
    overrides = {("acme", "workspace"): {"client_id": "ours"}}
    connections = ConnectionRepository(engine, vault, overrides=overrides)
    assert connections.sharing_client("ours") == [("acme", "google"), ("acme", "workspace")]
