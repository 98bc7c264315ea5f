"""Reading a token over HTTP, against a bare ASGI application that does one SQL read.

Both run under uvicorn in a process of their own, on the same PostgreSQL, in turns; the figure is
the server's CPU time per request, because wall time on a shared machine says little. The product
also checks the key, decrypts, and commits an audit entry before it answers; the bare one only
reads a row by its key and writes it as JSON.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.clock import FakeClock
from tests.grants import GrantTable
from tests.servers import KINDS
from worker.store import migrate
from worker.store.engine import open_engine
from worker.vault import AesVault, Keyring

ROUNDS, REQUESTS, CONNECTIONS, GRANTS = 5, 2000, 32, 200
KEY = "evg_bench-0123456789abcdef"


def main() -> None:
    place = Path(tempfile.mkdtemp(prefix="evergrant-bench-"))
    place.chmod(0o755)
    postgres = KINDS["postgres"](place)
    postgres.start()
    try:
        keyring = place / "keyring.json"
        _fill(postgres.url, keyring)
        servers = {
            name: _serve(name, postgres.url, keyring, 18400 + number)
            for number, name in enumerate(("bare", "product"))
        }
        try:
            _report(asyncio.run(_measure(servers)))
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait()
    finally:
        postgres.kill()


def _fill(url: str, keyring: Path) -> None:
    from datetime import UTC, datetime

    engine = open_engine(url)
    migrate.upgrade(engine)
    vault = AesVault(Keyring.create(keyring))
    grants = GrantTable(engine, vault, FakeClock(datetime.now(UTC)))
    for number in range(GRANTS):
        user = f"google-oauth2|{number}"
        grants.add(user_id=user, identity_user_id=str(number), access_token="a" * 1400)
    engine.dispose()


def _serve(name: str, url: str, keyring: Path, port: int) -> tuple[subprocess.Popen[bytes], int]:
    command = [sys.executable, "-m", "tests.benchmarks.handout_servers", name, url]
    process = subprocess.Popen([*command, str(keyring), str(port)])
    for _ in range(200):
        try:
            asyncio.run(_burst(port, 1, 1))
            break
        except OSError:
            time.sleep(0.05)
    return process, port


Figures = dict[str, list[tuple[float, float, list[float]]]]


async def _measure(servers: dict[str, tuple[subprocess.Popen[bytes], int]]) -> Figures:
    figures: Figures = {name: [] for name in servers}
    for name in servers:
        await _burst(servers[name][1], REQUESTS // 4, CONNECTIONS)  # warm
    for _ in range(ROUNDS):
        for name, (process, port) in servers.items():
            cpu, began = _cpu(process.pid), time.perf_counter()
            await _burst(port, REQUESTS, CONNECTIONS)
            took = time.perf_counter() - began
            used = (_cpu(process.pid) - cpu) / REQUESTS
            alone = await _burst(port, 200, 1)
            figures[name].append((used * 1e6, REQUESTS / took, alone))
    return figures


def _report(figures: Figures) -> None:
    cpu = {
        name: statistics.median(used for used, _, _ in rounds) for name, rounds in figures.items()
    }
    for name, rounds in figures.items():
        rate = statistics.median(rate for _, rate, _ in rounds)
        alone = sorted(second for _, _, seconds in rounds for second in seconds)
        p50, p99 = alone[len(alone) // 2], alone[int(len(alone) * 0.99)]
        print(
            f"{name:8} {cpu[name]:6.0f} µs CPU a request  {rate:6.0f}/s at {CONNECTIONS} "
            f"connections  p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms at one"
        )
    spread = [used for used, _, _ in figures["bare"]]
    if max(spread) - min(spread) > 0.5 * cpu["bare"]:
        print("the baseline itself varied by more than ±25 %: no judgement")
    else:
        print(f"product / bare: {cpu['product'] / cpu['bare']:.2f} times the CPU")


def _cpu(pid: int) -> float:
    """Seconds of CPU, user and system (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _burst(port: int, requests: int, connections: int) -> list[float]:
    todo = iter(range(requests))
    latencies: list[float] = []
    await asyncio.gather(*(_caller(port, todo, latencies) for _ in range(connections)))
    return latencies


async def _caller(port: int, todo: object, latencies: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in todo:  # type: ignore[attr-defined]  # one iterator, shared
        path = f"/v1/acme/users/google-oauth2%7C{number % GRANTS}/tokens/google"
        began = time.perf_counter()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        latencies.append(time.perf_counter() - began)
    writer.close()


if __name__ == "__main__":
    main()
