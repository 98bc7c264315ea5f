"""I24, C16: a replica that lacks the last commits becomes the store, under two nodes at work."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from tests.forwarder import Forwarder
from tests.planted import opened, plant, row_of
from tests.renewal.test_over_the_wire import TokenServer, connect, renewing
from tests.servers import Standby
from tests.simulation.provider import Ledger
from worker.domain.exchange import Rotation
from worker.store import migrate
from worker.store.connections import ConnectionRepository
from worker.store.engine import open_engine

GRANTS = 20


class Cluster:
    """A primary, a standby that receives late, and the address that both are reached by."""

    def __init__(self, primary, standby, address):
        self.primary, self.standby, self.address = primary, standby, address
        parts = urlsplit(primary.url)
        self.url = parts._replace(netloc=f"evergrant@127.0.0.1:{address.port}").geturl()

    async def falls_behind(self):
        while not self.standby.received():
            await asyncio.sleep(0.05)
        self.standby.stop()

    def fails_over(self):
        self.primary.kill()
        self.standby.start()
        self.standby.promote()
        self.address.target = self.standby.port


@pytest.fixture
def cluster(own_server):
    primary = own_server("postgres")
    standby = Standby(primary.home.parent, primary)
    with Forwarder(primary.port) as address:
        engine = open_engine(primary.url)
        migrate.upgrade(engine)
        engine.dispose()
        standby.start()
        yield Cluster(primary, standby, address)
        standby.kill()


@pytest.fixture
def store(cluster):
    engine = open_engine(cluster.url)
    yield engine
    engine.dispose()


@pytest.mark.timeout(120)
async def test_no_node_spends_what_another_has_renewed_and_the_new_store_lacks(
    cluster, store, vault, tmp_path
):
    """The first node has made every lost commit; the second one, which lost nothing itself, finds
    all grants due in the new store, and waits until the first has brought its journal forward."""
    ledger = Ledger(Rotation.F)
    async with TokenServer(ledger) as server:
        connections = ConnectionRepository(store, vault)
        connect(connections, server.url)
        now = datetime.now(UTC)
        grants = [
            plant(
                store, vault, now=now, rt=ledger.login(f"r{n}"), connection="idp", provider="oauth2"
            )
            for n in range(GRANTS)
        ]
        nodes = [
            renewing(store, vault, connections, tmp_path / name, {}, node=name)
            for name in ("n1", "n2")
        ]
        for node in nodes:
            await node.sweep()  # both have looked at this store
        await cluster.falls_behind()
        assert await nodes[0].drain("oauth2", budget_seconds=30) == {"renewed": GRANTS}
        cluster.fails_over()
        look = open_engine(cluster.url)  # its connections are not those that broke
        assert row_of(look, grants[0]).generation == 0, "the commits are lost"
        for _ in range(3):
            await nodes[1].sweep()
            await nodes[1].drain("oauth2", budget_seconds=1)
        assert len(ledger.spent) == GRANTS, "the second node waits"
        for _ in range(2):  # the first one notices
            await nodes[0].sweep()
        for n, grant in enumerate(grants):
            assert opened(look, vault, grant) == ledger.families[f"r{n}"].newest
        look.dispose()
        await nodes[1].drain("oauth2", budget_seconds=1)
        for node in nodes:
            await node.stop()
    assert ledger.double_spends == []
    assert len(ledger.spent) >= GRANTS
