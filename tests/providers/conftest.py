"""Connections, answers and the shipped catalogue, for every test of the room."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import pytest

from worker.domain.exchange import Answered, ConnectionConfig
from worker.domain.secret import Secret
from worker.providers import Catalogue, load_catalogue

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue({}, allow_loopback=False)


def a_connection(
    strategy: str,
    options: Mapping[str, object] | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    client_id: str | None = "our-client",
    client_secret: str | None = "our-secret",
    approved_host: str | None = None,
) -> ConnectionConfig:
    return ConnectionConfig(
        tenant="acme",
        name=f"acme-{strategy}",
        id="con_1",
        strategy=strategy,
        client_id=client_id,
        client_secret=Secret(client_secret) if client_secret else None,
        options=options or {},
        headers={name: Secret(value) for name, value in (headers or {}).items()},
        overrides=overrides or {},
        fetched_at=NOW,
        approved_host=approved_host,
        stopped=None,
    )


def an_answer(
    content: object = None, *, status: int = 200, body: bytes | None = None, **headers: str
) -> Answered:
    """JSON of `content`, or `body` as it is."""
    data = msgspec.json.encode(content) if body is None else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answered(status=status, headers=named, body=data)
