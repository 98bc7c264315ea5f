"""The short way of reading a token answers what the long way does, word for word."""

import httpx
import pytest

from tests.api.conftest import KEY
from worker.api import direct
from worker.domain.held import Ask

USER = "/v1/acme/users/google-oauth2%7C104/tokens"
LONG_WAY = "?part=user"  # the default, said: the same question


@pytest.fixture
def asked(monkeypatch):
    """Which requests took the short way."""
    taken, plain = [], direct._plain

    def noted(scope):
        ask = plain(scope)
        taken.append(ask)
        return ask

    monkeypatch.setattr(direct, "_plain", noted)
    return taken


async def both(world, path, key=KEY, headers=()):
    async with world.http(key) as http:
        return [await http.get(path + query, headers=list(headers)) for query in ("", LONG_WAY)]


@pytest.mark.parametrize(
    ("path", "key", "columns", "status"),
    [
        (f"{USER}/google", KEY, {}, 200),
        (f"{USER}/github", KEY, {}, 404),
        (f"{USER}/google", "evg_of-somebody-else-000", {}, 401),
        (f"{USER}/google", None, {}, 401),
        (f"{USER}/google", KEY, {"state": "needs_reauth", "reason": "invalid_grant"}, 409),
        (f"{USER}/google", KEY, {"state": "tombstoned"}, 410),
        (f"{USER}/google", KEY, {"withheld": "user_missing"}, 404),
        ("/v1/other/users/google-oauth2%7C104/tokens/google", KEY, {}, 404),
        ("/v1/acme/users/google-oauth2%2F104/tokens/google", KEY, {}, 404),
    ],
)
async def test_both_ways_answer_alike(one_world, asked, path, key, columns, status):
    one_world.grants.add(**columns)
    if columns.get("state") == "needs_reauth":
        one_world.clock.advance(7200)  # what is valid yet is served
    short, long = await both(one_world, path, key)
    assert [ask is not None for ask in asked] == [True, False]
    assert (short.status_code, short.text) == (long.status_code, long.text)
    assert short.status_code == status
    assert dict(short.headers) == dict(long.headers)


async def test_a_scoped_key_reads_what_it_covers_and_nothing_else_by_either_way(one_world):
    one_world.grants.add()
    for scope, status in (("read:acme/google/*", 200), ("read:acme/github/*", 404)):
        key = one_world.key(scope, name=scope)
        assert [answer.status_code for answer in await both(one_world, f"{USER}/google", key)] == [
            status,
            status,
        ]


async def test_each_read_is_audited_by_either_way(one_world):
    grant = one_world.grants.add()
    await both(one_world, f"{USER}/google")
    verbs = [moment.verb for moment in one_world.repository.timeline(grant, 10)]
    assert verbs.count("token_read") == 2


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", f"{USER}/google"),
        ("GET", f"{USER}/google?stale=0"),
        ("GET", USER),
        ("GET", f"{USER}/google/revoke"),
        ("GET", "/v1/acme/connections/google/token"),
    ],
)
async def test_only_the_plain_question_takes_the_short_way(one_world, asked, method, url):
    one_world.grants.add()
    async with one_world.http() as http:
        await http.request(method, url)
    assert asked == [None]


async def test_ids_are_decoded_once(one_world, asked):
    async with one_world.http() as http:
        await http.get("/v1/a%2525/users/x%2F%7C/tokens/caf%C3%A9")
    assert asked == [Ask(tenant="a%25", user_id="x/|", connection="café")]


async def test_a_failure_nobody_thought_of_is_a_problem_document_too(one_world, monkeypatch):
    def broken(*_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(one_world.repository, "find_many", broken)
    answers: list[httpx.Response] = await both(one_world, f"{USER}/google")
    assert [answer.json()["code"] for answer in answers] == ["internal", "internal"]
    assert all("a secret" not in answer.text for answer in answers)
