"""The Management API as facts describe it: tokens, scopes, answers, errors, pages."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.auth0.fakes import ALL_SCOPES, DOMAIN, FakeTenant, SharedTenants, management
from tests.clock import T0, FakeClock
from worker.auth0 import Credentials, missing_scopes, plan_named
from worker.domain.errors import (
    ConfigurationError,
    NotFoundError,
    PermanentError,
    TransientError,
)
from worker.domain.ports import ApiToken
from worker.domain.secret import Secret
from worker.sync.event_feed import _TOO_OLD

ROSA = "google-oauth2|1"
ROSA_PATH = "/users/google-oauth2%7C1"
USER = {
    "user_id": ROSA,
    "created_at": "2025-03-02T08:11:40.120Z",
    "last_login": "2026-01-01T11:59:00.000Z",
    "logins_count": 42,
    "identities": [
        {
            "connection": "google-oauth2",
            "provider": "google-oauth2",
            "user_id": "1",
            "isSocial": True,
            "access_token": "at-0",
            "refresh_token": "rt-0",
            "expires_in": 3599,
        }
    ],
}


@pytest.fixture
def tenant() -> FakeTenant:
    fake = FakeTenant()
    fake.on(ROSA_PATH, (200, USER))
    return fake


# ---------------------------------------------------------------------------- our own token


async def test_the_audience_is_the_canonical_domains_whatever_the_address(tenant):
    api = management(tenant, client_secret=Secret("s"), base_url="http://127.0.0.1:9")
    await api.user(ROSA)
    assert tenant.token_form["audience"] == f"https://{DOMAIN}/api/v2/"
    assert tenant.token_form["grant_type"] == "client_credentials"
    assert str(tenant.requests[0].url) == "http://127.0.0.1:9/oauth/token"


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
async def test_a_private_key_signs_an_assertion_that_is_good_once_and_for_a_minute(
    tenant, algorithm
):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for _ in range(2):
        await management(tenant, private_key=Secret(pem), algorithm=algorithm).user(ROSA)
    forms = [r.content.decode() for r in tenant.requests if r.url.path == "/oauth/token"]
    assertions = [httpx.QueryParams(form)["client_assertion"] for form in forms]
    options = {"verify_exp": False, "verify_iat": False}
    first, second = (
        jwt.decode(a, key.public_key(), [algorithm], audience=f"https://{DOMAIN}/", options=options)
        for a in assertions
    )
    assert first["iss"] == first["sub"] == "app"
    assert first["exp"] - first["iat"] == 60
    assert first["jti"] != second["jti"]
    assert "client_secret" not in forms[0]


def test_a_key_that_is_none_is_said_without_showing_it():
    credentials = Credentials(domain=DOMAIN, client_id="app", private_key=Secret("canary"))
    with pytest.raises(ConfigurationError, match="not a PEM key") as caught:
        credentials.token_form(T0)
    assert "canary" not in str(caught.value)


async def test_a_hundred_reads_at_once_fetch_one_token(tenant):
    api = management(tenant)
    await asyncio.gather(*(api.user(ROSA) for _ in range(100)))
    assert tenant.tokens == 1


async def test_processes_share_the_token(tenant):
    shared = SharedTenants()
    await management(tenant, shared).user(ROSA)
    await management(tenant, shared).user(ROSA)
    assert tenant.tokens == 1


async def test_a_token_within_ten_seconds_of_its_end_is_not_used(tenant):
    old = ApiToken(token=Secret("old"), expires_at=T0 + timedelta(seconds=9), scope="")
    await management(tenant, SharedTenants(held=old)).user(ROSA)
    assert tenant.requests[-1].headers["authorization"] == "Bearer api-1"


INSUFFICIENT = {"statusCode": 403, "errorCode": "insufficient_scope"}
REFUSALS = {
    "401, which has no errorCode": (401, {"statusCode": 401, "error": "Unauthorized"}),
    "403 insufficient_scope": (403, INSUFFICIENT),
    "403 without a code": (403, {"statusCode": 403}),
}


def held() -> ApiToken:
    return ApiToken(token=Secret("held"), expires_at=T0 + timedelta(days=1), scope=ALL_SCOPES)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_shared_token_that_is_refused_is_replaced_for_everybody(tenant, refusal):
    shared = SharedTenants(held=held())
    tenant.on(ROSA_PATH, refusal, (200, USER))
    assert (await management(tenant, shared).user(ROSA)).user_id == ROSA
    assert shared.held is not None
    assert shared.held.token == Secret("api-1")


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_fresh_token_that_is_refused_is_the_operators_to_mend(tenant, refusal):
    tenant.on(ROSA_PATH, refusal)
    api = management(tenant)
    for _ in range(3):
        with pytest.raises(ConfigurationError):
            await api.user(ROSA)
    assert tenant.tokens == 1  # not one more for each refusal


def test_missing_scopes_are_named_with_what_will_not_work():
    missing = missing_scopes("read:users read:connections")
    assert list(missing) == ["read:user_idp_tokens", "read:connections_options"]
    assert "client_secret" in missing["read:connections_options"]


TOKEN_FAILURES = {
    "wrong secret": ((401, {"error": "access_denied"}), ConfigurationError),
    "unknown client": ((401, {"error": "invalid_client"}), ConfigurationError),
    "Auth0 is away": ((503, b"<html>"), TransientError),
    "no token in it": ((200, {"scope": "x"}), TransientError),
    "not JSON": ((200, b"{"), TransientError),
    "redirected": ((302, b""), TransientError),
    "network": (httpx.ConnectError("canary"), TransientError),
}


@pytest.mark.parametrize(("answer", "error"), TOKEN_FAILURES.values(), ids=TOKEN_FAILURES)
async def test_a_refused_client_is_told_from_an_auth0_that_is_away(tenant, answer, error):
    tenant.token_answer = answer
    with pytest.raises(error) as caught:
        await management(tenant).user(ROSA)
    assert "app-secret" not in repr(caught.value) + str(caught.value.__dict__)
    assert caught.value.__cause__ is None  # an httpx error would carry the form
    assert "canary" not in str(caught.value)


async def test_a_spent_token_quota_waits_as_long_as_it_says(tenant):
    tenant.token_answer = (429, {"error": "too_many_requests"}, {"retry-after": "3540"})
    with pytest.raises(TransientError) as caught:
        await management(tenant).user(ROSA)
    assert caught.value.retry_after == timedelta(seconds=3540)


async def test_a_scope_that_was_granted_meanwhile_is_had_within_minutes(tenant):
    """A token without it is never refused: users are read without their tokens, with status 200."""
    clock, lacking = FakeClock(), "read:users read:connections read:connections_options"
    tenant.scope = lacking
    api = management(tenant, clock=clock)
    await api.user(ROSA)
    clock.advance(300)
    await api.user(ROSA)
    assert tenant.tokens == 1
    tenant.scope = ALL_SCOPES
    clock.advance(301)
    await api.user(ROSA)
    assert (await api.granted_scopes()).split() == ALL_SCOPES.split()
    clock.advance(3600)
    await api.user(ROSA)
    assert tenant.tokens == 2


async def test_what_lacks_a_scope_is_used_while_none_better_is_to_be_had(tenant):
    clock = FakeClock()
    tenant.scope = "read:users"
    api = management(tenant, clock=clock)
    await api.user(ROSA)
    clock.advance(601)
    tenant.token_answer = (503, b"")
    assert (await api.user(ROSA)).user_id == ROSA


async def test_a_newer_token_of_another_process_is_taken_within_a_minute(tenant):
    """The doctor's, for instance, who asks for a fresh one to see what is granted today."""
    clock, shared = FakeClock(), SharedTenants()
    api, doctor = management(tenant, shared, clock=clock), management(tenant, shared, clock=clock)
    await api.user(ROSA)
    tenant.scope = f"{ALL_SCOPES} read:logs"
    assert "read:logs" in await doctor.granted_scopes(fresh=True)
    clock.advance(61)
    assert "read:logs" in await api.granted_scopes()
    assert tenant.tokens == 2


def token_requests(tenant: FakeTenant) -> int:
    return sum(request.url.path == "/oauth/token" for request in tenant.requests)


AGAIN = {
    "wrong secret": ((401, {"error": "access_denied"}), 10, ConfigurationError),
    "quota spent": ((429, {"error": "x"}, {"retry-after": "3540"}), 3540, TransientError),
    "Auth0 is away": ((503, b""), 1, TransientError),
    "network": (httpx.ConnectError("cut"), 1, TransientError),
}


@pytest.mark.parametrize(("answer", "seconds", "error"), AGAIN.values(), ids=AGAIN)
async def test_a_backlog_does_not_storm_the_endpoint_that_logins_live_on(
    tenant, answer, seconds, error
):
    """Its limit is shared with the tenant's own logins, and no budget of ours is drawn on."""
    clock = FakeClock()
    api = management(tenant, clock=clock)
    tenant.token_answer = answer
    fates = await asyncio.gather(*(api.user(ROSA) for _ in range(100)), return_exceptions=True)
    assert {type(fate) for fate in fates} == {error}
    assert token_requests(tenant) == 1
    clock.advance(seconds / 2)
    with pytest.raises(error) as caught:
        await api.user(ROSA)
    assert token_requests(tenant) == 1
    if error is TransientError:
        assert caught.value.retry_after == timedelta(seconds=seconds / 2)
    tenant.token_answer = None
    clock.advance(seconds / 2)
    assert (await api.user(ROSA)).user_id == ROSA


async def test_a_token_that_another_process_has_fetched_ends_the_wait(tenant):
    shared = SharedTenants()
    api = management(tenant, shared)
    tenant.token_answer = (429, {"error": "too_many_requests"}, {"retry-after": "3540"})
    with pytest.raises(TransientError):
        await api.user(ROSA)
    shared.held = held()
    assert (await api.user(ROSA)).user_id == ROSA


# ---------------------------------------------------------------------------- users


async def test_a_user_is_read_by_an_encoded_id_and_without_his_profile(tenant):
    user = await management(tenant).user(ROSA)
    path, _, query = tenant.paths[-1].partition("?")
    assert path == ROSA_PATH
    assert "identities" in query
    assert "email" not in query
    identity = user.identities[0]
    assert identity.refresh_token == Secret("rt-0")
    assert identity.expires_in == 3599
    assert user.last_login == T0 - timedelta(minutes=1)
    assert "rt-0" not in repr(user)


HOSTILE_IDS = ["../connections", "a/b", "auth0|x?fields=*", "auth0|x#y", "%2e%2e", "rosa@x y|ü"]


@pytest.mark.parametrize("user_id", HOSTILE_IDS)
async def test_no_user_id_can_leave_its_place_in_the_path(tenant, user_id):
    with pytest.raises(NotFoundError):
        await management(tenant).user(user_id)
    path = tenant.requests[-1].url.raw_path.decode().partition("?")[0]
    assert path.count("/") == 4
    assert path.startswith("/api/v2/users/")


async def test_an_answer_about_another_user_is_not_merged(tenant):
    tenant.on("/users/auth0%7C2", (200, USER))
    with pytest.raises(TransientError):
        await management(tenant).user("auth0|2")


STRANGE = {
    "a numeric identity id": ({"connection": "github", "user_id": 12345}, "12345"),
    "unknown and missing fields": ({"connection": "x", "user_id": "1", "new": {"a": 1}}, "1"),
    "tokens that are no strings": (
        {"connection": "x", "user_id": "1", "access_token": 7, "refresh_token": {"a": 1}},
        "1",
    ),
}


@pytest.mark.parametrize(("identity", "user_id"), STRANGE.values(), ids=STRANGE)
async def test_identities_are_read_without_insisting(tenant, identity, user_id):
    tenant.on(ROSA_PATH, (200, {"user_id": ROSA, "identities": [None, 3, {}, identity]}))
    user = await management(tenant).user(ROSA)
    assert [i.user_id for i in user.identities] == [user_id]
    assert user.identities[0].access_token is None
    assert user.login is None  # neither count nor time was told


# ---------------------------------------------------------------------------- connections


async def test_options_that_are_hidden_are_told_from_a_connection_without_secrets(tenant):
    for body in ({}, {"options": {}}, {"options": None}):
        found = {"id": "con_1", "name": "google", "strategy": "google-oauth2", **body}
        tenant.on("/connections/con_1", (200, found))
        assert (await management(tenant).connection("con_1")).options is None


async def test_a_connection_is_found_by_its_very_name(tenant):
    tenant.on("/connections", (200, [{"name": "Google"}, {"id": "con_2", "name": "google"}]))
    assert (await management(tenant).connection_by_name("google")).id == "con_2"
    with pytest.raises(NotFoundError):
        await management(tenant).connection_by_name("github")


VAULTS = {
    "the switch of today": {"connected_accounts": {"active": True}},
    "the switch of before": {"options": {"federated_connections_access_tokens": {"active": True}}},
}


@pytest.mark.parametrize("body", VAULTS.values(), ids=VAULTS)
async def test_token_vault_is_noticed(tenant, body):
    tenant.on("/connections/con_1", (200, {"id": "con_1", "name": "google", **body}))
    assert (await management(tenant).connection("con_1")).vault_active


async def test_all_connections_are_paged_by_checkpoint(tenant):
    tenant.on(
        "/connections",
        (200, {"connections": [{"name": "a"}, {"name": ""}], "next": "abc"}),
        (200, {"connections": [{"name": "b"}]}),
    )
    assert [c.name async for c in management(tenant).connections()] == ["a", "b"]
    assert "from=abc" in tenant.paths[-1]


# ---------------------------------------------------------------------------- failures

FAILURES = {
    "gone": ((404, {"errorCode": "inexistent_user"}), NotFoundError),
    "gone, without a code": ((404, b""), NotFoundError),
    "a query it does not like": ((400, {"errorCode": "invalid_uri"}), PermanentError),
    "not in the plan": ((403, {"errorCode": "insufficient_entitlement"}), ConfigurationError),
    "timeout": ((408, {}), TransientError),
    "conflict": ((409, {}), TransientError),
    "broken": ((500, b"<html>canary"), TransientError),
    "maintenance": ((503, {}), TransientError),
    "cut": ((200, b'{"user_id": "goo'), TransientError),
    "a list": ((200, []), TransientError),
    "a page": ((200, b"<html>"), TransientError),
    "deep": ((200, b"[" * 100_000), TransientError),
    "network": (httpx.ReadTimeout("canary"), TransientError),
    "redirect": ((307, b""), PermanentError),
    "a code that is a sentence": ((400, {"errorCode": "canary\r\ninjected"}), PermanentError),
}


@pytest.mark.parametrize(("answer", "error"), FAILURES.values(), ids=FAILURES)
async def test_a_failure_says_who_can_mend_it_and_nothing_else(tenant, answer, error):
    tenant.on(ROSA_PATH, answer)
    with pytest.raises(error) as caught:
        await management(tenant).user(ROSA)
    shown = f"{caught.value} {caught.value.code}"
    assert "canary" not in shown
    assert "google-oauth2|1" not in shown
    assert "api-1" not in shown


@pytest.mark.parametrize("code", ["cursor_expired", "offset_gone", None])
async def test_what_is_gone_is_told_by_its_status_whatever_it_is_called(tenant, code):
    """The Events API's offset: by any name it has expired, and the next one is found by time."""
    tenant.on("/events", (410, {"errorCode": code} if code else {}))
    with pytest.raises(PermanentError) as caught:
        async with management(tenant).streaming("/events", {}, {}, silence=1):
            pass
    assert caught.value.code in _TOO_OLD


async def test_a_kept_connection_that_was_closed_meanwhile_is_asked_again_at_once(tenant):
    tenant.on(ROSA_PATH, httpx.RemoteProtocolError("closed"), (200, USER))
    assert (await management(tenant).user(ROSA)).user_id == ROSA


RESET = int((T0 + timedelta(seconds=10)).timestamp())
PAUSES = {
    "Retry-After": ({"retry-after": "7"}, 7, 7),
    "Retry-After goes first": ({"retry-after": "7", "x-ratelimit-reset": str(RESET)}, 7, 7),
    "the reset, and up to a fifth more": ({"x-ratelimit-reset": str(RESET)}, 10, 12),
    "a reset in the past": ({"x-ratelimit-reset": "17"}, 1, 1),
    "an absurd reset": ({"x-ratelimit-reset": str(RESET + 10**9)}, 60, 60),
    "not a number": ({"retry-after": "soon", "x-ratelimit-reset": "nan"}, 1, 1),
    "nothing said": ({}, 1, 1),
}


@pytest.mark.parametrize(("headers", "least", "most"), PAUSES.values(), ids=PAUSES)
async def test_a_429_pauses_all_processes_for_as_long_as_it_says(tenant, headers, least, most):
    shared = SharedTenants()
    tenant.on(ROSA_PATH, (429, {"errorCode": "too_many_requests"}, headers))
    with pytest.raises(TransientError) as caught:
        await management(tenant, shared, clock=FakeClock()).user(ROSA)
    assert shared.blocked is not None
    assert least <= (shared.blocked - T0).total_seconds() <= most
    assert caught.value.retry_after is not None


# ---------------------------------------------------------------------------- budget


@pytest.mark.parametrize(
    ("plan", "bucket", "rate"), [("professional", "users", 5.0), ("free", "all", 1.2)]
)
async def test_each_plan_has_its_buckets_and_we_take_a_part_of_them(tenant, plan, bucket, rate):
    shared = SharedTenants()
    await management(tenant, shared, plan=plan).user(ROSA)
    taken = shared.taken[-1]
    assert (taken["bucket"], taken["rate"]) == (bucket, pytest.approx(rate))


async def test_a_fast_tenant_costs_one_store_write_for_many_requests(tenant):
    shared = SharedTenants()
    api = management(tenant, shared, plan="private-30x")
    for _ in range(90):
        await api.user(ROSA)
    assert len(shared.taken) == 1


async def test_a_live_read_does_not_wait_longer_than_its_event_can(tenant):
    with pytest.raises(TransientError) as caught:
        await management(tenant, SharedTenants(waits=[45.0])).user(ROSA)
    assert caught.value.retry_after == timedelta(seconds=45)


def test_an_unknown_plan_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="essentials"):
        plan_named("platinum")
