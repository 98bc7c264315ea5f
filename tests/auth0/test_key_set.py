"""Where a tenant's signing keys come from, and what else may come from there."""

import httpx
import pytest

from worker.auth0.key_set import LARGEST, KeySets
from worker.domain.errors import TransientError


def key_sets(answer):
    asked = []

    def handle(request):
        asked.append(str(request.url))
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = httpx.MockTransport(handle)
    sets = KeySets(
        {"acme": "https://acme.eu.auth0.com"},
        client=lambda: httpx.AsyncClient(transport=transport),
    )
    return sets, asked


async def test_the_set_is_read_where_auth0_publishes_it():
    sets, asked = key_sets(httpx.Response(200, json={"keys": []}))
    assert await sets("acme") == {"keys": []}
    assert asked == ["https://acme.eu.auth0.com/.well-known/jwks.json"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500, json={"keys": []}),
        httpx.Response(302, headers={"location": "https://evil.example/jwks.json"}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, content=b" " * (LARGEST + 1) + b"{}"),
        httpx.ConnectError("down"),
    ],
)
async def test_without_keys_nothing_is_proved_and_it_is_worth_asking_again(answer):
    sets, asked = key_sets(answer)
    with pytest.raises(TransientError) as away:
        await sets("acme")
    assert away.value.code == "no_key_set"
    assert len(asked) == 1
