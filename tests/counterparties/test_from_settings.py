"""From evergrant.toml to a renewed grant and its end: an operator's own provider, each way to prove
the client.

Settings are read, the catalogue is loaded with what they say, the connection is read from the
store under its overrides, and the engine renews at a server that we did not write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.counterparties.counterparty import Counterparty, Minted
from tests.counterparties.test_renewing import PRIVATE, PUBLIC
from tests.planted import opened, plant, plant_connection, row_of
from tests.simulation.world import FakePull
from worker import settings
from worker.bootstrap.base import Base, Role, open_base
from worker.bootstrap.ending import compromise_of, reach_of, tombstones_of
from worker.bootstrap.renewing import engine_of
from worker.domain.burial import Selection
from worker.domain.errors import ConfigurationError
from worker.domain.grant import GrantId
from worker.providers import HttpTokenEndpoint
from worker.revocation import Response, Revoker
from worker.store import migrate
from worker.vault import Keyring

PROVIDER = """
[providers.house-idp]
display_name = "Our own server"
match_token_host = ["127.0.0.1"]
token_endpoint = "{url}/token"
rotation = "single_use"
lifetimes = {{ access = "1m" }}
revoke = {{ endpoint = "{url}/revoke", type_hint = true }}
"""
TENANT = """
[tenants.acme]
domain = "acme.eu.auth0.com"
client_id = "m2m"
client_secret = "env:M2M"
"""
CONNECTIONS = {
    "post": 'client_auth = "post"\nclient_secret = "env:IDP_SECRET"',
    "basic": 'client_auth = "basic"\nclient_secret = "file:idp.secret"',
    "private_key_jwt": 'client_auth = "private_key_jwt"\nprivate_key = "file:idp.pem"',
}


@contextmanager
def product(directory: Path, config: str, minted: Minted) -> Iterator[Base]:
    """A worker's share of the product, as the files in `directory` describe it."""
    (directory / "evergrant.toml").write_text(config)
    (directory / "idp.secret").write_text(minted.client_secret)
    (directory / "idp.pem").write_text(PRIVATE)
    Keyring.create(directory / "keyring.json")
    environment = {
        "EVERGRANT_DATA_DIR": str(directory / "data"),
        "EVERGRANT_KEYRING": str(directory / "keyring.json"),
        "EVERGRANT_BROKER_URL": "memory://",
        "EVERGRANT_ALLOW_LOOPBACK": "1",
        "M2M": "secret",
        "IDP_SECRET": minted.client_secret,
    }
    (directory / "data").mkdir(mode=0o700)
    base = open_base(settings.load(environment, directory=directory), Role.WORKER)
    try:
        migrate.upgrade(base.engine)
        yield base
    finally:
        base.close()


async def renewed(base: Base, minted: Minted, connection: str) -> GrantId:
    """One grant of the connection, renewed by the engine as a worker process makes it."""
    options = {"tokenURL": "http://127.0.0.1/told-by-auth0", "scope": ["read"]}
    plant_connection(
        base.engine,
        name=connection,
        strategy="oauth2",
        client_id=minted.client_id,
        options=options,
    )
    vault, connections = base.vault(), base.connections()
    config = connections.get("acme", connection)
    assert config is not None
    provider = base.catalogue.resolve(config, has_refresh_token=True)
    assert (provider.name, provider.not_renewable) == ("house-idp", None)
    grant = plant(
        base.engine,
        vault,
        now=datetime.now(UTC),
        rt=minted.refresh_token,
        connection=connection,
        provider=provider.name,
    )
    endpoint = HttpTokenEndpoint(allow_loopback=True)
    engine = engine_of(
        base, vault=vault, connections=connections, endpoint=endpoint, pull=FakePull()
    )
    try:
        assert await engine.drain("house-idp", budget_seconds=20) == {"renewed": 1}
    finally:
        await engine.stop()
        await endpoint.close()
    return grant


async def given_up(base: Base, connection: str) -> dict[str, int]:
    """As a leak is answered: stopped here, then ended at the issuer, by the worker's own parts."""
    selection = Selection(tenant="acme", connection=connection)
    await compromise_of(base).respond(selection, Response.REVOKE, actor="cli:ada")
    endpoint = HttpTokenEndpoint(allow_loopback=True)
    revoker = Revoker(
        tombstones=tombstones_of(base),
        connections=base.connections(),
        catalogue=base.catalogue,
        endpoint=endpoint,
        vault=base.vault(),
        reach=reach_of(base, base.connections()),
        clock=base.clock,
        offload=base.offload,
    )
    try:
        return await revoker.drain()
    finally:
        await endpoint.close()


async def check(server: Counterparty, directory: Path, minted: Minted, way: str) -> None:
    keys = f'\n[tenants.acme.connections.idp]\nprovider = "house-idp"\n{CONNECTIONS[way]}\n'
    config = TENANT + keys + PROVIDER.format(url=server.base_url)
    with product(directory, config, minted) as base:
        assert "renew.house-idp" in {queue.name for queue in base.celery.conf.task_queues}
        grant = await renewed(base, minted, "idp")
        row = row_of(base.engine, grant)
        assert (row.state, row.generation, row.rotated_before) == ("active", 1, True)
        assert row.renewed_at < row.due_at < row.expires_at
        vault = base.vault()
        access_token = opened(base.engine, vault, grant, "at")
        assert server.opens(access_token)
        assert opened(base.engine, vault, grant) != minted.refresh_token
        assert await given_up(base, "idp") == {"revoked": 1}
        assert not server.opens(access_token)
        assert row_of(base.engine, grant).state == "erased"


@pytest.mark.parametrize("way", ["post", "basic"])
async def test_an_own_provider_renews_by_a_secret(
    counterparty: Counterparty, tmp_path: Path, way: str
) -> None:
    await check(counterparty, tmp_path, counterparty.mint(), way)


async def test_an_own_provider_renews_by_a_key_of_our_own(
    authlib: Counterparty, tmp_path: Path
) -> None:
    minted = authlib.mint(auth_method="private_key_jwt", public_key=PUBLIC)
    await check(authlib, tmp_path, minted, "private_key_jwt")


def test_a_wrong_key_of_a_connection_stops_the_start_and_is_named(
    authlib: Counterparty, tmp_path: Path
) -> None:
    keys = '\n[tenants.acme.connections.idp]\nrotaton = "none"\n'
    with (
        pytest.raises(ConfigurationError, match=r"rotaton.*did you mean 'rotation'"),
        product(tmp_path, TENANT + keys, authlib.mint()),
    ):
        pass
