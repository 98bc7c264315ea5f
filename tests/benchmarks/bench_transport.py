"""CPU per token request: our transport against httpx's own, in the same run.

    python -m tests.benchmarks.bench_transport [requests] [in flight]

The server runs in a process of its own. Prints microseconds of this process's CPU time per
request, and their ratio; the ratio is the figure, the microseconds depend on the machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

import httpx

from worker.domain.exchange import Answered, WireRequest
from worker.providers import HttpTokenEndpoint
from worker.providers.transport import TokenTransport

ROUNDS = 5
BODY = b'{"access_token":"' + b"a" * 1200 + b'","refresh_token":"r","expires_in":3600}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    + BODY
)
FORM = b"grant_type=refresh_token&refresh_token=r&client_id=c&client_secret=s"
HEADERS = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}


class Echo(asyncio.Protocol):
    """Answers each request as soon as its body is there; httpx sends it apart from the head."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(FORM):
            self.transport.write(ANSWER)


def serve(told: Connection) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def measure(ask: Callable[[], Awaitable[None]], count: int, in_flight: int) -> float:
    """Microseconds of CPU per request."""
    left = iter(range(count))

    async def one_after_another() -> None:
        for _ in left:
            await ask()

    for _ in range(in_flight):
        await ask()
    began = time.process_time()
    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    return (time.process_time() - began) / count * 1e6


async def compare(port: int, count: int, in_flight: int) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}/token"
    request = WireRequest(
        method="POST", url=url, host=f"127.0.0.1:{port}", headers=HEADERS, body=FORM
    )
    endpoint = HttpTokenEndpoint(allow_loopback=True)
    # More than are in flight: at exactly as many, httpx's pool collapses (encode/httpx#3215).
    limits = httpx.Limits(max_connections=2 * in_flight, max_keepalive_connections=in_flight)
    theirs = httpx.AsyncClient(limits=limits, trust_env=False)
    ours = httpx.AsyncClient(transport=TokenTransport(allow_loopback=True), trust_env=False)

    async def by_endpoint() -> None:
        outcome = await endpoint.exchange(request, gate=lambda: True, read_timeout=10)
        assert isinstance(outcome, Answered)

    async def by_httpx() -> None:
        (await theirs.post(url, content=FORM, headers=HEADERS)).raise_for_status()

    async def by_httpx_over_ours() -> None:
        (await ours.post(url, content=FORM, headers=HEADERS)).raise_for_status()

    ways = {
        "token endpoint": by_endpoint,
        "httpx over our transport": by_httpx_over_ours,
        "httpx": by_httpx,
    }
    rounds = [
        {name: await measure(way, count, in_flight) for name, way in ways.items()}
        for _ in range(ROUNDS)
    ]
    figures = {name: statistics.median(figures[name] for figures in rounds) for name in ways}
    await endpoint.close()
    await theirs.aclose()
    await ours.aclose()
    return figures


def main(count: int = 1000, in_flight: int = 30) -> None:
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(there,), daemon=True)
    server.start()
    figures = asyncio.run(compare(here.recv(), count, in_flight))
    server.terminate()
    base = figures["httpx"]
    for name, cost in figures.items():
        print(f"{name:26} {cost:8.0f} µs CPU   {cost / base:5.2f} × httpx")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
