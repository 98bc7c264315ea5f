"""INVARIANTS §7, API: every one refused, none with an effect."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from tests.api.conftest import KEY
from worker.domain.access import parse_scope
from worker.store.engine import reading
from worker.store.tables import AuditRow

TOKEN = "/v1/acme/users/google-oauth2%7C104/tokens/google"
OTHERS = "/v1/acme/users/google-oauth2%7C105/tokens/google"


def audited(world):
    with reading(world.engine) as connection:
        return connection.execute(select(func.count()).select_from(AuditRow)).scalar_one()


@pytest.fixture
def world(one_world):
    one_world.grants.add()
    one_world.grants.add(
        identity_user_id="105", user_id="google-oauth2|105", access_token="not-yours"
    )
    return one_world


async def refused(world, *, key=KEY, path=TOKEN, headers=None, method="GET", **more):
    async with world.http(key) as http:
        answer = await http.request(method, path, headers=headers, **more)
    assert "at-0" not in answer.text
    assert "not-yours" not in answer.text
    assert audited(world) == 0
    assert world.renewer.hints == []
    return answer.status_code, answer.json()["code"]


AUTHORIZATIONS = {
    "nothing": None,
    "empty": "",
    "basic": "Basic ZXZnOmV2Zw==",
    "no scheme": KEY,
    "no key": "Bearer ",
    "two words": f"Bearer {KEY} {KEY}",
    "a tab": f"Bearer\t{KEY}",
    "quoted": f'Bearer "{KEY}"',
    "in another case": f"Bearer {KEY.upper()}",
    "one letter less": f"Bearer {KEY[:-1]}",
    "one letter more": f"Bearer {KEY}x",
    "very long": f"Bearer {'x' * 5000}",
    "a JWT without a signature": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.",
}


@pytest.mark.parametrize("authorization", AUTHORIZATIONS.values(), ids=AUTHORIZATIONS)
async def test_no_key_or_a_wrong_one(world, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    status, code = await refused(world, key=None, headers=headers)
    assert (status, code) in ((401, "key_missing"), (401, "key_refused"))


async def test_two_authorization_headers(world):
    twice = [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")]
    assert await refused(world, key=None, headers=twice) == (401, "key_missing")


async def test_a_revoked_key(world):
    key = world.key("acme")
    world.keys.revoke("app", world.clock.now())
    assert await refused(world, key=key) == (401, "key_refused")


async def test_a_key_in_use_is_refused_soon_after_it_is_revoked(world):
    key = world.key("acme")
    async with world.http(key) as http:
        assert (await http.get(TOKEN)).status_code == 200
        world.keys.revoke("app", world.clock.now())
        world.clock.advance(2)
        assert (await http.get(TOKEN)).status_code == 401


async def test_an_expired_key(world):
    soon = world.clock.now() + timedelta(seconds=1)
    key = world.keys.create("brief", scope=parse_scope("*"), now=world.clock.now(), expires_at=soon)
    world.clock.advance(1)
    assert await refused(world, key=key.text()) == (401, "key_refused")


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ("other", TOKEN),
        ("acme/github", TOKEN),
        ("acme/google/google-oauth2|104", OTHERS),
        ("acme/google/google-oauth2|10", TOKEN),
        ("status:acme", TOKEN),
        ("acme", "/v1/other/users/google-oauth2%7C104/tokens/google"),
        ("acme", "/v1/acme/connections/google/token"),
    ],
)
async def test_outside_the_scope(world, scope, path):
    """Another tenant, another connection, a user outside the pattern, another verb."""
    assert await refused(world, key=world.key(scope), path=path) == (404, "not_found")


@pytest.mark.parametrize(
    "grant",
    ["00000000-0000-0000-0000-000000000000", "1", "%27%20OR%201=1", "ffffffff" * 4, "*"],
)
async def test_guessing_grants(world, grant):
    status, _ = await refused(world, path=f"/v1/acme/grants/{grant}")
    assert status in (400, 404)


async def test_a_grant_of_another_tenant_by_its_id(world):
    grant = world.grants.add(tenant="other", connection="x")
    assert await refused(world, path=f"/v1/acme/grants/{grant}") == (404, "not_found")
    key = world.key("acme")
    assert await refused(world, key=key, path=f"/v1/other/grants/{grant}") == (404, "not_found")


@pytest.mark.parametrize(
    "query",
    [
        "include=refresh_token",
        "min_ttl=-1",
        "min_ttl=1e9",
        "min_ttl=",
        "min_ttl=60&min_ttl=0",
        "MIN_TTL=60",
        "stale=-1",
        "stale=99999999999999999999",
        "stale=x",
        "identity=",
        "identity=a&identity=b",
        "identity=" + "a" * 2000,
        "user_id=google-oauth2%7C105",
    ],
)
async def test_wishes_that_are_none_of_ours(world, query):
    assert await refused(world, path=f"{TOKEN}?{query}") == (400, "bad_parameter")


@pytest.mark.parametrize("name", ["access_token", "token", "api_key", "key", "Authorization"])
async def test_a_key_in_the_query(world, name):
    path = f"{TOKEN}?{name}={KEY}"
    assert await refused(world, key=None, path=path) == (400, "key_in_query")


async def test_addresses_claimed_by_a_header_mean_nothing(world):
    claimed = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
        "Forwarded": "for=127.0.0.1",
        "X-Original-URL": "/v1/acme/users/google-oauth2%7C105/tokens/google",
        "X-HTTP-Method-Override": "POST",
    }
    assert await refused(world, key=None, headers=claimed) == (401, "key_missing")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/acme/users/google-oauth2%7C104/tokens/%2e%2e",
        "/v1/acme/users/%2e/tokens/google",
        "/v1/acme/users//tokens/google",
        "/v1/acme/users/google-oauth2%7C104%00/tokens/google",
        "/v1/acme/users/google-oauth2%7C104%0d%0aX-Y:1/tokens/google",
        "/v1/acme/users/%ff%fe/tokens/google",
        "/v1/acme/users/" + "a" * 3000 + "/tokens/google",
        "/v1/acme/users/%1b%5b31m/tokens/google",
    ],
)
async def test_path_tricks(world, path):
    assert await refused(world, path=path) == (400, "bad_path")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/acme/users/google-oauth2%7C105%2Ftokens%2Fgoogle%23/tokens/google",
        "/v1/acme/users/x%2F..%2Fgoogle-oauth2%7C104/tokens/google",
        "/v1/acme/users/google-oauth2%257C104/tokens/google",
        "/v1/acme/users/google-oauth2%7C104'--/tokens/google",
        "/v1/acme/users/google-oauth2%7C104/tokens/GOOGLE",
        "/v1/acme/users/%2A/tokens/google",
        "/v1/acme%2Fusers/google-oauth2%7C104/tokens/google",
        "/V1/acme/users/google-oauth2%7C104/tokens/google",
        "/v1/acme/users/google-oauth2%7C104/tokens/google/",
    ],
)
async def test_paths_that_only_look_like_another(world, path):
    """Decoded once, compared whole: no pattern, no normalisation, no trailing slash."""
    status, code = await refused(world, path=path)
    assert (status, code) in ((404, "not_found"), (404, "no_such_path"), (400, "bad_path"))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
async def test_methods_that_are_none_of_ours(world, method):
    assert await refused(world, method=method) == (405, "no_such_method")


async def test_a_flood_of_forced_renewals(world):
    """I12: a thousand claims that the token is refused make one renewal due, five an hour."""
    key = world.key("read,renew:acme")
    hints = []
    world.renewer.renew = hints.append
    async with world.http(key) as http:
        for _ in range(60):
            answer = await http.get(TOKEN, params={"stale": 0})
            assert answer.status_code == 503
    assert audited(world) == 1  # what was due stays due: nothing is forced twice


async def test_a_body_nobody_asked_for(world):
    path = f"{TOKEN}/revoke"
    key = world.key("read:acme")
    body = b'["' + b"x" * 1_000_000 + b'"]'
    assert await refused(world, key=key, path=path, method="POST", content=body) == (
        404,
        "not_found",
    )


async def test_wrong_keys_are_looked_up_alike(world):
    """No early way out by which a nearly right key would differ from a wholly wrong one."""
    asked = []
    find = world.known.find
    world.known.find = lambda digest: asked.append(digest) or find(digest)
    right = world.key("acme")
    for wrong in (right[:-1], right[:-1] + "~", "evg_x", "x" * 40):
        assert await refused(world, key=wrong) == (401, "key_refused")
    assert [len(digest) for digest in asked] == [32] * 4
