"""The product as the demo sees it: a process tree started by `evergrant up`, and its web pages."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from worker.domain.errors import PermanentError

_START = 60.0  # seconds
_STOP = 30.0


@dataclass(slots=True)
class Numbers:
    """What `/metrics` says, as far as the demo shows it."""

    renewals: dict[tuple[str, str], int] = field(default_factory=dict)  # (provider, verdict)
    events: int = 0
    pulls: int = 0
    lateness: dict[float, float] = field(default_factory=dict)  # bucket's upper bound → count

    def renewed(self, provider: str) -> int:
        return self.renewals.get((provider, "renewed"), 0)

    def late(self, share: float) -> float | None:
        """The lateness in seconds that `share` of the renewals did not exceed; interpolated."""
        whole = max(self.lateness.values(), default=0.0)
        below, before = 0.0, 0.0
        for bound, count in sorted(self.lateness.items()):
            if whole and count >= share * whole:
                inside = (share * whole - before) / (count - before) if count > before else 0.0
                return below + inside * (min(bound, 1e9) - below)
            below, before = bound, count
        return None


@dataclass(slots=True)
class Product:
    """A running Evergrant."""

    url: str
    api_key: str = field(repr=False)
    log: Path
    process: subprocess.Popen[bytes]
    _http: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=5))

    def status(self) -> dict[str, Any]:
        return dict(self._http.get(f"{self.url}/status").json())

    def numbers(self) -> Numbers:
        return numbers_in(self._http.get(f"{self.url}/metrics").text)

    def grant_states(self, tenant: str, user_id: str) -> dict[str, str]:
        """Connection to state, of one user, through the public API."""
        answer = self._http.get(
            httpx.URL(f"{self.url}/v1/{tenant}/users/").join(f"{_quoted(user_id)}/tokens"),
            headers={"Authorization": f"Bearer {self.api_key}"},
        )
        found = answer.json().get("tokens", []) if answer.status_code == 200 else []
        return {one["connection"]: one["state"] for one in found}


def numbers_in(text: str) -> Numbers:
    """Read the exposition format."""
    numbers = Numbers()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels, value = sample.labels, sample.value
            if sample.name == "evergrant_renewals_total":
                numbers.renewals[(labels["provider"], labels["verdict"])] = int(value)
            elif sample.name == "evergrant_events_total" and labels["outcome"] == "taken":
                numbers.events += int(value)
            elif sample.name == "evergrant_pulls_total" and labels["outcome"] == "merged":
                numbers.pulls += int(value)
            elif sample.name == "evergrant_renewal_lateness_seconds_bucket":
                bound = float(labels["le"])
                numbers.lateness[bound] = numbers.lateness.get(bound, 0.0) + value
    return numbers


@contextmanager
def running(directory: Path, settings: Mapping[str, str]) -> Iterator[Product]:
    """`evergrant up` in `directory`, until the block ends. Raises: PermanentError, no start."""
    port, api_key = _free_port(), f"evg_{secrets.token_urlsafe(32)}"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("EVERGRANT_", "AUTH0_"))},
        **settings,
        "EVERGRANT_DATA_DIR": str(directory / "data"),
        "EVERGRANT_PORT": str(port),
        "EVERGRANT_API_KEYS": f"demo:{api_key}:read,renew,status:*",
    }
    log = directory / "evergrant.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # our own interpreter, our own arguments
            [sys.executable, "-m", "worker.cli", "up"],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        product = Product(f"http://127.0.0.1:{port}", api_key, log, process)
        try:
            _wait_until_ready(product)
            yield product
        finally:
            _end(process)


def _wait_until_ready(product: Product) -> None:
    until = time.monotonic() + _START
    while time.monotonic() < until and product.process.poll() is None:
        try:
            if httpx.get(f"{product.url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise PermanentError(f"Evergrant did not start; its log is {product.log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _quoted(user_id: str) -> str:
    from urllib.parse import quote

    return quote(user_id, safe="")
