"""What the contenders of `bench_renewals` share: a provider, and a store full of due grants."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, delete, insert, update

from worker.domain.exchange import ConnectionConfig
from worker.domain.grant import ExpiryKind, GrantId, GrantPart, GrantState
from worker.domain.secret import Secret
from worker.store.claim_rows import FREE
from worker.store.connections import ConnectionRepository
from worker.store.engine import writing
from worker.store.tables import (
    AuditRow,
    ConnectionRow,
    GrantRow,
    HostRow,
    SeenRefreshTokenRow,
)
from worker.vault import AesVault, Keyring

ENTRY = "oauth2"  # an unknown provider: class F, so every renewal is journaled
ACCESS = "a" * 1100
REFRESH = "r" * 200
_EMPTIED = (AuditRow, ConnectionRow, GrantRow, HostRow, SeenRefreshTokenRow)
_FILLED_AT_ONCE = 1000


class TokenServer(asyncio.Protocol):
    """Answers each request after a delay, with tokens never given before."""

    delay = 0.0
    number = 0
    _head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    _body = (
        b'{"access_token":"%d' + ACCESS.encode() + b'","refresh_token":"r%d' + REFRESH.encode()
    ) + b'","expires_in":3600}'

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        head, found, body = self.waiting.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        self.waiting = b""
        asyncio.get_running_loop().call_later(TokenServer.delay, self.answer)

    def answer(self) -> None:
        number = TokenServer.number = TokenServer.number + 1
        body = self._body % (number, number)
        self.transport.write(self._head % (len(body), body))


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0] or 0)


def _serve(told: Connection) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(TokenServer, "127.0.0.1", 0, backlog=4096)
        told.send(server.sockets[0].getsockname()[1])
        while True:
            TokenServer.delay = await loop.run_in_executor(None, told.recv)
            told.send("set")

    asyncio.run(main())


@dataclass
class Provider:
    """A token endpoint in a process of its own."""

    url: str
    pid: int
    _told: Connection

    def answers_after(self, seconds: float) -> None:
        self._told.send(seconds)
        self._told.recv()


@contextmanager
def provider() -> Iterator[Provider]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs,), daemon=True
    )
    process.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}/token"
        yield Provider(url=url, pid=process.pid or 0, _told=ours)
    finally:
        process.kill()


@dataclass
class Stage:
    """One store with `count` grants of one connection. Keys are in a file, for other processes."""

    store: Engine
    keyring: Path
    url: str
    count: int

    def __post_init__(self) -> None:
        self.vault = AesVault(Keyring.load(self.keyring))

    def fill(self) -> None:
        """Every grant is new, and due."""
        now = datetime.now(UTC)
        with writing(self.store) as db:
            for table in _EMPTIED:
                db.execute(delete(table))
        for start in range(0, self.count, _FILLED_AT_ONCE):
            numbers = range(start, min(self.count, start + _FILLED_AT_ONCE))
            with writing(self.store) as db:
                db.execute(insert(GrantRow), [self._grant(n, now) for n in numbers])
        ConnectionRepository(self.store, self.vault).put(self._connection(now), options_seen=True)
        self._tidy()

    def make_due(self) -> None:
        """The same grants once more, with the tokens they have now."""
        past = datetime.now(UTC) - timedelta(seconds=1)
        with writing(self.store) as db:
            db.execute(update(GrantRow).values(FREE | {GrantRow.due_at: past}))
        self._tidy()

    def _tidy(self) -> None:
        if self.store.dialect.name != "postgresql":
            return
        with self.store.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            connection.exec_driver_sql("CHECKPOINT")

    def _connection(self, now: datetime) -> ConnectionConfig:
        return ConnectionConfig(
            tenant="bench",
            name="idp",
            id=None,
            strategy=ENTRY,
            client_id="client",
            client_secret=Secret("secret"),
            options={"tokenURL": self.url},
            headers={},
            overrides={},
            fetched_at=now,
            approved_host=None,
            stopped=None,
        )

    def _grant(self, n: int, now: datetime) -> dict[str, object]:
        grant = GrantId(uuid4())
        access_key, refresh_key = self.vault.new_keys("bench", grant)
        refresh = Secret(f"first-{n}-{REFRESH}")

        def seal(secret: Secret, kind: str, key: bytes) -> bytes:
            return self.vault.seal(
                secret, tenant="bench", grant=grant, generation=0, kind=kind, key=key
            )

        return {
            "id": grant,
            "tenant": "bench",
            "connection": "idp",
            "identity_user_id": str(n),
            "part": GrantPart.USER.value,
            "user_id": f"idp|{n}",
            "strategy": ENTRY,
            "provider": ENTRY,
            "state": GrantState.ACTIVE.value,
            "renewable": True,
            "generation": 0,
            "family": 0,
            "access_token": seal(Secret(ACCESS), "at", access_key),
            "refresh_token": seal(refresh, "rt", refresh_key),
            "access_key": access_key,
            "refresh_key": refresh_key,
            "rt_fp": self.vault.fingerprint(refresh),
            "token_type": "Bearer",
            "issued_at": now - timedelta(minutes=50),
            "expiry": ExpiryKind.AT.value,
            "expires_at": now + timedelta(minutes=10),
            "logged_in_at": now,
            "rotated_before": False,
            "due_at": now - timedelta(seconds=1),
            "failures": 0,
            "fence": 0,
            "uncertain": False,
            "pull_fence": 0,
            "created_at": now,
        }
