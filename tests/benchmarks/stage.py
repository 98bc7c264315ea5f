"""What the contenders of `bench_renewals` share: a provider, and a store full of due grants."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import Engine, bindparam, delete, func, insert, select, update

from tests.providers.wire import Authority
from worker.domain.exchange import ConnectionConfig
from worker.domain.grant import ExpiryKind, GrantId, GrantPart, GrantState
from worker.domain.secret import Secret
from worker.store.claim_rows import FREE
from worker.store.connections import ConnectionRepository
from worker.store.engine import reading, writing
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
TRUSTED = "authority.pem"


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


def _serve(told: Connection, directory: Path) -> None:
    authority = Authority.create()
    (directory / TRUSTED).write_text(authority.pem)
    context = authority.serve_as(directory, "localhost")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        plain = await loop.create_server(TokenServer, "127.0.0.1", 0, backlog=4096)
        secure = await loop.create_server(TokenServer, "127.0.0.1", 0, backlog=4096, ssl=context)
        told.send([server.sockets[0].getsockname()[1] for server in (plain, secure)])
        while True:
            TokenServer.delay = await loop.run_in_executor(None, told.recv)
            told.send("set")

    asyncio.run(main())


@dataclass
class Provider:
    """A token endpoint in a process of its own."""

    url: str
    secure_url: str
    _told: Connection

    def answers_after(self, seconds: float) -> None:
        self._told.send(seconds)
        self._told.recv()


@contextmanager
def provider(directory: Path) -> Iterator[Provider]:
    """Plain and over TLS, with a certificate that `directory / TRUSTED` vouches for."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, directory), daemon=True
    )
    process.start()
    try:
        plain, secure = ours.recv()
        yield Provider(
            url=f"http://127.0.0.1:{plain}/token",
            secure_url=f"https://localhost:{secure}/token",
            _told=ours,
        )
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

    def spread(self, seconds: float) -> dict[UUID, datetime]:
        """Each is due once within so many seconds from in a moment on; when."""
        begins = datetime.now(UTC) + timedelta(seconds=2)
        with writing(self.store) as db:
            ids = db.execute(select(GrantRow.id)).scalars().all()
            due = {
                grant: begins + timedelta(seconds=seconds * number / len(ids))
                for number, grant in enumerate(ids)
            }
            changed = update(GrantRow).where(GrantRow.id == bindparam("of"))
            changed = changed.values({**FREE, GrantRow.due_at: bindparam("at")})
            db.execute(changed, [{"of": grant, "at": at} for grant, at in due.items()])
        self._tidy()
        return due

    def left(self) -> int:
        """How many of those due by now are not renewed yet."""
        with reading(self.store) as db:
            asked = select(func.count()).where(GrantRow.due_at <= datetime.now(UTC))
            return int(db.execute(asked).scalar_one())

    def lateness(self, due: Mapping[UUID, datetime]) -> list[float]:
        """Seconds from when each was due to its commit, in order."""
        with reading(self.store) as db:
            rows = db.execute(select(GrantRow.id, GrantRow.renewed_at)).all()
        return sorted((row.renewed_at - due[row.id]).total_seconds() for row in rows)

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
