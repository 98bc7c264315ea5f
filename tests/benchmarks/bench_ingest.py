"""Webhook events into the inbox on PostgreSQL, in batches of 100, the web process on one core.

Baseline in the same run: a route of the same application that checks the header and reads the
body, and does nothing with it. The events are Google logins of 1.6 KB, every one of which matters:
the worst case, for most of a log stream is ignored and never reaches the store.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.events.payloads import login, prompt
from tests.servers import KINDS
from worker.domain.event import Source
from worker.domain.secret import Secret
from worker.store import migrate
from worker.store.engine import open_engine
from worker.store.inbox import InboxRepository

BATCH, BATCHES, CONNECTIONS = 100, 300, 4
HUSH = "made-up"


def body(batch: int) -> bytes:
    """100 logins of 1.6 KB, ids and users of their own."""
    return body_of_events((batch * BATCH + n, batch * BATCH + n) for n in range(BATCH))


def body_of_events(events: Iterable[tuple[int, int]]) -> bytes:
    """Logins by their number and the user's."""
    agent = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML)"
    details = {"prompts": [prompt()], "session_id": "x" * 32, "padding": "y" * 500}
    records = [
        login(
            f"9002026112014021150000000000000000000122337200{number:010}",
            user_id=f"google-oauth2|1{user:010}",
            details=details,
            user_agent=agent,
        )
        for number, user in events
    ]
    return json.dumps(records).encode()


def serve(url: str, port: int, directory: str) -> None:
    """The web process: our doors, and the baseline beside them."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Route

    from worker.bootstrap.clock import SystemClock
    from worker.events import Intake, Spool, TenantFacts
    from worker.ingress import TenantDoors, routes, verbatim
    from worker.ingress.receiving import body_of

    os.sched_setaffinity(0, {0})
    threads = ThreadPoolExecutor(4)

    async def offload(call: Any, /, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, lambda: call(*args, **kwargs))

    class Baseline:
        async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            await body_of(receive, limit=1 << 24, seconds=20)
            await send({"type": "http.response.start", "status": 202, "headers": [_LENGTH]})
            await send({"type": "http.response.body", "body": b"{}"})

    intake = Intake(
        inbox=InboxRepository(open_engine(url)),
        tenants={"acme": TenantFacts(name="acme", own_client_id="us", auth0_name="acme-dev")},
        spool=Spool(Path(directory)),
        ring=lambda: None,
        clock=SystemClock(),
    )
    doors = {"acme": TenantDoors(logs=(verbatim(Secret(HUSH)),))}
    app = Starlette(
        routes=[
            Route("/baseline", Baseline(), methods=["POST"]),
            *routes(intake=intake, tenants=doors, offload=offload),
        ]
    )
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


_LENGTH = (b"content-length", b"2")


async def posted(port: int, path: str, bodies: Iterable[bytes]) -> tuple[float, Counter[str]]:
    """Seconds to post them all over a few connections, and the answers, added up."""
    waiting, told = iter(bodies), Counter[str]()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for sent in waiting:
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: {HUSH}\r\n"
            writer.write(f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 202"), answer
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            told.update(json.loads(await reader.readexactly(length)))
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return time.perf_counter() - began, told


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(port: int, path: str, bodies: list[bytes], pid: int) -> tuple[float, float]:
    """Events per second by the wall, and CPU µs of the web process per event."""
    before = cpu_of(pid)
    seconds, _ = asyncio.run(posted(port, path, bodies))
    events = len(bodies) * BATCH
    return events / seconds, (cpu_of(pid) - before) / events * 1e6


def main() -> None:
    place = Path(tempfile.mkdtemp(prefix="bench-"))
    place.chmod(0o755)
    server = KINDS["postgres"](place)
    server.start()
    try:
        run(server.url, str(place / "spool"))
    finally:
        server.kill()


def run(url: str, directory: str) -> None:
    engine = open_engine(url)
    migrate.upgrade(engine)
    with web_process(url, directory) as (port, pid):
        report(engine, port, [body(number) for number in range(BATCHES)], pid)


@contextmanager
def web_process(url: str, directory: str) -> Iterator[tuple[int, int]]:
    """Its port, once it answers, and its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    web = multiprocessing.get_context("spawn").Process(target=serve, args=(url, port, directory))
    web.start()
    assert web.pid is not None
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port, web.pid
    finally:
        web.kill()
        web.join()


def report(engine: Any, port: int, bodies: list[bytes], pid: int) -> None:
    path = "/hooks/auth0/acme/logs"
    measured(port, "/baseline", bodies[:50], pid)  # warm
    base, base_cpu = measured(port, "/baseline", bodies, pid)
    new, new_cpu = measured(port, path, bodies, pid)
    again, again_cpu = measured(port, path, bodies, pid)
    assert InboxRepository(engine).counts() == {"new": BATCHES * BATCH}
    size = len(bodies[0]) // 1000
    print(f"{BATCHES} batches of {BATCH} events, {size} KB each, {Source.LOGS.value}")
    print(f"body read only     {base:>9,.0f} events/s  {base_cpu:6.1f} CPU µs/event")
    print(f"into the inbox     {new:>9,.0f} events/s  {new_cpu:6.1f} CPU µs/event")
    print(f"all of them again  {again:>9,.0f} events/s  {again_cpu:6.1f} CPU µs/event")
    print(f"ratio by CPU: {new_cpu / base_cpu:.1f} × body read only")


if __name__ == "__main__":
    main()
