"""End to end: real store, journal, catalogue and transport against a token endpoint on loopback."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest

from tests.planted import opened, plant, row_of
from tests.simulation.provider import Ledger
from tests.simulation.world import FakePull
from worker.bootstrap.clock import SystemClock
from worker.domain.exchange import ConnectionConfig, Rotation
from worker.domain.secret import Secret
from worker.journal import Journal, NodeJournals, new_process_name
from worker.providers import HttpTokenEndpoint, load_catalogue
from worker.renewal import Engine
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.claims import ClaimsRepository
from worker.store.connections import ConnectionRepository
from worker.store.hosts import HostRepository
from worker.store.learning import LearningRepository
from worker.store.settling import SettlingRepository


async def threads(call, /, *args, **kwargs):
    return await asyncio.to_thread(call, *args, **kwargs)


class TokenServer:
    """One form POST per connection; hangs up without an answer as often as `silent` says."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.silent = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/token"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        form = parse_qs((await reader.readexactly(length)).decode())
        if self.silent:
            self.silent -= 1
            writer.close()
            return
        now = asyncio.get_running_loop().time()
        status, body = self.ledger.refresh(form["refresh_token"][0], now)
        raw = json.dumps(body).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (status, len(raw), raw)
        )
        await writer.drain()
        writer.close()


@pytest.fixture
def connections(engine, vault):
    return ConnectionRepository(engine, vault)


def connect(connections, url):
    connections.put(
        ConnectionConfig(
            tenant="acme",
            name="idp",
            id=None,
            strategy="oauth2",
            client_id="client",
            client_secret=Secret("client-secret"),
            options={"tokenURL": url},
            headers={},
            overrides={},
            fetched_at=datetime.now(UTC),
            approved_host=None,
            stopped=None,
        ),
        options_seen=True,
    )


def renewing(engine, vault, connections, directory, overrides, node="n1"):
    process, clock = new_process_name(), SystemClock()
    store = {"node": node, "process": process, "clock": clock}
    return Engine(
        node=node,
        claims=ClaimsRepository(engine, **store),
        settling=SettlingRepository(engine, audit=AuditLog("n1"), tell=outbox.add, **store),
        journal=Journal(directory, process=process, offload=threads),
        journals=NodeJournals(directory, own=process),
        connections=connections,
        catalogue=load_catalogue(overrides, allow_loopback=True),
        endpoint=HttpTokenEndpoint(allow_loopback=True),
        vault=vault,
        hosts=HostRepository(engine),
        learning=LearningRepository(engine, tell=outbox.add),
        pull=FakePull(),
        clock=clock,
        offload=threads,
    )


async def test_grants_of_an_unknown_provider_are_renewed(engine, vault, connections, tmp_path):
    ledger = Ledger(Rotation.F)
    async with TokenServer(ledger) as server:
        connect(connections, server.url)
        now = datetime.now(UTC)
        grants = [
            plant(
                engine,
                vault,
                now=now,
                rt=ledger.login(f"r{n}"),
                connection="idp",
                provider="oauth2",
            )
            for n in range(30)
        ]
        worker = renewing(engine, vault, connections, tmp_path / "journal", {})
        assert await worker.drain("oauth2", budget_seconds=30) == {"renewed": 30}
        await worker.stop()
    for n, grant in enumerate(grants):
        assert opened(engine, vault, grant) == ledger.families[f"r{n}"].newest
    assert ledger.double_spends == []


async def test_a_connection_cut_before_the_answer_is_repaired_inside_the_grace(
    engine, vault, connections, tmp_path
):
    ledger = Ledger(Rotation.G, grace=30.0)
    async with TokenServer(ledger) as server:
        connect(connections, server.url)
        server.silent = 1
        grant = plant(
            engine,
            vault,
            now=datetime.now(UTC),
            rt=ledger.login("r0"),
            connection="idp",
            provider="oauth2",
        )
        declared = {"oauth2": {"rotation": "single_use_grace", "rotation_grace": "30s"}}
        worker = renewing(engine, vault, connections, tmp_path / "journal", declared)
        assert await worker.drain("oauth2", budget_seconds=30) == {"renewed": 1}
        await worker.stop()
    assert opened(engine, vault, grant) == ledger.families["r0"].newest
    assert row_of(engine, grant).rotated_before
