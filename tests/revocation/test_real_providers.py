"""The requests that leave, made by the shipped catalogue."""

from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest

from tests.handout.conftest import in_place
from worker.domain.exchange import ConnectionConfig
from worker.domain.secret import Secret
from worker.providers import load_catalogue
from worker.revocation import Reach, Revoker, nature_from


class OneConnection:
    def __init__(self, strategy):
        self._config = ConnectionConfig(
            tenant="acme",
            name="google",
            id="con_1",
            strategy=strategy,
            client_id="our-client",
            client_secret=Secret("our-secret"),
            options={},
            headers={},
            overrides={},
            fetched_at=datetime(2026, 1, 1, tzinfo=UTC),
            approved_host=None,
            stopped=None,
        )

    def get(self, _tenant, _name):
        return self._config

    def sharing_client(self, client_id):
        return [("acme", "google")] if client_id == self._config.client_id else []


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue({}, allow_loopback=False)


@pytest.fixture
def revoke(tombstones, endpoint, erasure, vault, clock, catalogue, grants, kin, monkeypatch):
    requests = []
    exchange = endpoint.exchange

    async def remembered(request, **limits):
        requests.append(request)
        return await exchange(request, **limits)

    monkeypatch.setattr(endpoint, "exchange", remembered)

    async def revoke(provider):
        grants.add(provider=provider, strategy=provider)
        connections = OneConnection(provider)
        revoker = Revoker(
            tombstones=tombstones,
            connections=connections,
            reach=Reach(kin, nature_from(catalogue, connections)),
            catalogue=catalogue,
            endpoint=endpoint,
            vault=vault,
            clock=clock,
            offload=in_place,
        )
        await erasure.erase("acme", "google-oauth2|104")
        return await revoker.drain(), requests

    return revoke


async def test_google_is_given_the_refresh_token_and_no_client_secret(revoke):
    counts, (request,) = await revoke("google-oauth2")
    assert counts == {"revoked": 1}
    assert (request.method, request.url) == ("POST", "https://oauth2.googleapis.com/revoke")
    assert parse_qs(request.body.decode())["token"] == ["rt-0"]
    assert b"our-secret" not in request.body


async def test_microsoft_offers_nothing_and_nothing_is_claimed(revoke):
    counts, requests = await revoke("waad")
    assert (counts, requests) == ({"not_offered": 1}, [])


async def test_github_is_asked_with_our_own_credentials(revoke):
    counts, (request, *_) = await revoke("github-app")
    assert counts == {"revoked": 1}
    assert request.method == "DELETE"
    assert request.url.startswith("https://api.github.com/applications/our-client/")
    assert request.headers["authorization"].startswith("Basic ")


def test_google_is_known_to_end_siblings_too(catalogue, grants):
    from types import SimpleNamespace

    nature = nature_from(catalogue, OneConnection("google-oauth2"))
    held = SimpleNamespace(
        key=SimpleNamespace(tenant="acme", connection="google"), provider="google-oauth2"
    )
    assert (nature(held).effect, nature(held).peers) == ("app", [("acme", "google")])
