"""The two servers that `bench_handout` compares."""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psycopg
import uvicorn

from tests.benchmarks.bench_handout import KEY
from worker.api import KeyBook, build_app
from worker.domain.access import bootstrap_key
from worker.domain.secret import Secret
from worker.handout import Explain, Handout
from worker.store.audit import AuditLog
from worker.store.engine import open_engine
from worker.store.handout import HandoutRepository
from worker.vault import AesVault, Keyring


def bare(url: str) -> Any:
    """One row by the user's index, as JSON, and nothing else: one async connection."""
    connections: list[psycopg.AsyncConnection[Any]] = []
    free: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    query = (
        "SELECT id, state, access_token, expires_at FROM grants "
        "WHERE tenant = %b AND user_id = %b AND connection = 'google'"
    )

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        parts = scope["raw_path"].decode().split("/")
        if not connections:
            for _ in range(8):
                connections.append(await psycopg.AsyncConnection.connect(url, autocommit=True))
                free.put_nowait(connections[-1])
        connection = await free.get()
        cursor = await connection.execute(query, (parts[2], unquote(parts[4])))
        row = await cursor.fetchone()
        free.put_nowait(connection)
        assert row is not None
        body = json.dumps({"id": str(row[0]), "state": row[1], "token": row[2].hex()}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def product(url: str, keyring: Path) -> Any:
    engine = open_engine(url, pool_size=8)
    pool = ThreadPoolExecutor(8)

    async def offload(call: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: call(*args, **kwargs))

    grants, clock = HandoutRepository(engine, AuditLog("bench")), SystemClock()
    hints: Any = None
    requests: Any = None
    return build_app(
        handout=Handout(
            grants=grants,
            vault=AesVault(Keyring.load(keyring)),
            hints=hints,
            clock=clock,
            offload=offload,
        ),
        explain=Explain(grants=grants, clock=clock, offload=offload),
        requests=requests,
        keys=KeyBook(
            find=lambda _digest: None,
            clock=clock,
            offload=offload,
            bootstrap=[bootstrap_key(name="bench", secret=Secret(KEY), scope="*")],
        ),
    )


if __name__ == "__main__":
    name, url, keyring, port = sys.argv[1:]
    application = bare(url) if name == "bare" else product(url, Path(keyring))
    uvicorn.run(application, port=int(port), log_level="error", lifespan="off", access_log=False)
