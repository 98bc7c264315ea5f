"""The HTTP surface: paths, answers, problem documents."""

import json
from dataclasses import replace
from urllib.parse import quote

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.api.conftest import KEY

TOKEN = "/v1/acme/users/google-oauth2%7C104/tokens/google"


async def test_a_token_is_answered_with_all_that_is_known_of_it(world):
    world.grants.add()
    async with world.http() as http:
        answer = await http.get(TOKEN)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "access_token": "at-0",
        "token_type": "Bearer",
        "expires_at": "2026-01-01T13:00:00Z",
        "expires_in": 3600,
        "use_until": "2026-01-01T12:15:00Z",
        "use_for": 900,
        "expiry": "at",
        "scope": "openid email",
        "connection": "google",
        "strategy": "google-oauth2",
        "user_id": "google-oauth2|104",
        "identity_user_id": "104",
        "generation": 0,
        "renewed_at": None,
    }


async def test_a_token_without_a_told_end_says_null(one_world):
    one_world.grants.add(life=None, expiry="untold")
    async with one_world.http() as http:
        answer = (await http.get(TOKEN)).json()
    assert (answer["expires_at"], answer["expires_in"], answer["expiry"]) == (None, None, "untold")


async def test_the_list_shows_no_token(world):
    world.grants.add()
    world.grants.add(connection="github", refresh_token="rt-1", access_token="at-1")
    async with world.http() as http:
        answer = await http.get("/v1/acme/users/google-oauth2%7C104/tokens")
    listed = answer.json()["tokens"]
    assert [grant["connection"] for grant in listed] == ["github", "google"]
    assert "at-" not in answer.text
    assert "rt-" not in answer.text


async def test_the_list_shows_only_what_the_key_covers(one_world):
    one_world.grants.add()
    one_world.grants.add(connection="github")
    async with one_world.http(one_world.key("acme/github")) as http:
        answer = await http.get("/v1/acme/users/google-oauth2%7C104/tokens")
    assert [grant["connection"] for grant in answer.json()["tokens"]] == ["github"]


async def test_an_explanation_tells_state_next_step_and_history(world):
    grant = world.grants.add()
    world.grants.add_candidate(grant, "rt-x", why="login")
    async with world.http() as http:
        await http.get(TOKEN)
        answer = (await http.get(f"/v1/acme/grants/{grant}")).json()
    assert answer["state"] == "active"
    assert (answer["next_step"], answer["next_at"]) == ("renewed when due", "2026-01-01T12:45:00Z")
    assert answer["candidates"] == {"login": 1}
    assert [(m["verb"], m["actor"]) for m in answer["timeline"]] == [("token_read", "key:ops")]


async def test_needs_reauth_says_why_and_whose_turn_it_is(world):
    grant = world.grants.add(state="needs_reauth", reason="invalid_grant", due_at=None)
    world.clock.advance(3600)
    async with world.http() as http:
        answer = await http.get(TOKEN)
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "urn:evergrant:problem:needs_reauth"
    assert (problem["code"], problem["reason"]) == ("needs_reauth", "invalid_grant")
    assert (problem["who"], problem["grant"]) == ("user", str(grant))


async def test_away_says_when_to_come_again(one_world):
    one_world.grants.add(failures=1, last_error="timeout")
    one_world.clock.advance(3600)
    async with one_world.http() as http:
        answer = await http.get(TOKEN)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["reason"] == "timeout"


async def test_two_accounts_are_told_apart(one_world):
    one_world.grants.add(identity_user_id="a", access_token="of-a")
    one_world.grants.add(identity_user_id="b", access_token="of-b")
    async with one_world.http() as http:
        which = await http.get(TOKEN)
        of_b = await http.get(TOKEN, params={"identity": "b"})
    assert (which.status_code, which.json()["identities"]) == (409, ["a", "b"])
    assert of_b.json()["access_token"] == "of-b"


async def test_revoking_ends_it_here_and_promises_nothing_there(world):
    grant = world.grants.add()
    async with world.http() as http:
        answer = await http.post(f"{TOKEN}/revoke")
        after = await http.get(TOKEN)
        again = await http.post(f"{TOKEN}/revoke")
    assert answer.status_code == 202
    assert answer.json()["at_provider"] == "pending"
    assert (after.status_code, again.status_code) == (410, 410)
    assert world.grants.row(grant).state == "tombstoned"


async def test_where_the_provider_offers_nothing_the_person_is_told_where(one_world):
    one_world.nature = type(one_world.nature)(effect="", by_hand="At myapps.microsoft.com.")
    one_world.grants.add()
    async with one_world.http() as http:
        answer = (await http.post(f"{TOKEN}/revoke")).json()
    assert (answer["at_provider"], answer["by_hand"]) == ("by_hand", "At myapps.microsoft.com.")


async def test_what_ends_siblings_too_has_to_be_meant(one_world):
    """Google ends everything the user allowed the client."""
    one_world.nature = whole_consent(one_world)
    grant = one_world.grants.add()
    sibling = one_world.grants.add(connection="google-workspace", refresh_token="rt-w")
    async with one_world.http() as http:
        refused = await http.post(f"{TOKEN}/revoke")
        assert one_world.grants.row(grant).state == "active"
        meant = await http.post(f"{TOKEN}/revoke?include_siblings=true")
    assert (refused.status_code, refused.json()["siblings"]) == (409, [str(sibling)])
    assert "include_siblings=true" in refused.json()["detail"]
    assert (meant.status_code, meant.json()["siblings"]) == (202, [str(sibling)])
    assert one_world.grants.row(sibling).state == "tombstoned"


async def test_an_app_ends_no_sibling_that_it_may_not_revoke(one_world):
    """Neither by asking for it, nor does it learn the other's id."""
    one_world.nature = whole_consent(one_world)
    grant = one_world.grants.add()
    other = one_world.grants.add(connection="google-workspace", refresh_token="rt-w")
    key = one_world.key("revoke:acme/google/*")
    async with one_world.http(key=key) as http:
        refused = await http.post(f"{TOKEN}/revoke?include_siblings=true")
    assert (refused.status_code, refused.json()["siblings_of_others"]) == (409, 1)
    assert str(other) not in refused.text
    assert "--include-siblings" in refused.json()["detail"]
    assert {one_world.grants.row(one).state for one in (grant, other)} == {"active"}


def whole_consent(world):
    """Google's way: both connections are one client there."""
    peers = (("acme", "google"), ("acme", "google-workspace"))
    return replace(world.nature, effect="app", peers=peers)


@pytest.mark.parametrize(
    "user_id",
    ["auth0|1", "email|a b@x.org", "oidc|con|a/b", "a%2Fb", "..|x", "naïve|日本", "x;y=1?z#f"],
)
async def test_any_user_id_is_found_percent_encoded(one_world, user_id):
    one_world.grants.add(user_id=user_id)
    async with one_world.http() as http:
        answer = await http.get(f"/v1/acme/users/{quote(user_id, safe='')}/tokens/google")
    assert answer.json()["user_id"] == user_id


async def test_routes_of_other_doors_answer_and_are_described(one_world):
    async def healthz(request):
        """Whether the process lives."""
        return PlainTextResponse("ok")

    one_world.routes = [Route("/healthz", healthz)]
    async with one_world.http(key=None) as http:
        assert (await http.get("/healthz")).text == "ok"
        paths = (await http.get("/openapi.json")).json()["paths"]
    assert paths["/healthz"]["get"]["summary"] == "Whether the process lives."


async def test_the_description_names_every_path_and_every_refusal(one_world):
    async with one_world.http(key=None) as http:
        document = (await http.get("/openapi.json")).json()
    read = document["paths"]["/v1/{tenant}/users/{user_id}/tokens/{connection}"]["get"]
    assert sorted(read["responses"]) == ["200", "400", "401", "403", "404", "409", "410", "503"]
    wishes = {parameter["name"]: parameter["in"] for parameter in read["parameters"]}
    assert wishes == {
        "tenant": "path",
        "user_id": "path",
        "connection": "path",
        "min_ttl": "query",
        "stale": "query",
        "identity": "query",
        "part": "query",
    }
    assert sorted(document["paths"]) == [
        "/v1/{tenant}/connections/{connection}/token",
        "/v1/{tenant}/grants/{grant_id}",
        "/v1/{tenant}/users/{user_id}/tokens",
        "/v1/{tenant}/users/{user_id}/tokens/{connection}",
        "/v1/{tenant}/users/{user_id}/tokens/{connection}/revoke",
    ]


async def test_the_description_of_a_token_names_every_part_of_it(one_world):
    one_world.grants.add()
    async with one_world.http() as http:
        document, answer = (await http.get("/openapi.json")).json(), await http.get(TOKEN)
    described = document["components"]["schemas"]["TokenAnswer"]["properties"]
    assert answer.status_code == 200
    assert set(answer.json()) <= set(described)


async def test_a_crash_tells_nothing(one_world, monkeypatch):
    def broken(_ask):
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(one_world.repository, "find_many", broken)
    async with one_world.http() as http:
        answer = await http.get(TOKEN)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "hunter2" not in answer.text


async def test_no_answer_repeats_what_was_sent(one_world):
    """A token put into the wrong place must not travel on."""
    async with one_world.http() as http:
        for path in (f"{TOKEN}?min_ttl={KEY}", f"{TOKEN}?other={KEY}", f"/v1/acme/grants/{KEY}"):
            answer = await http.get(path)
            assert answer.status_code == 400
            assert KEY not in json.dumps(answer.json())
