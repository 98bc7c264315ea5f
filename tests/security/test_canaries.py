"""The canary hunt (T11): token and key bytes lie nowhere but inside ciphertext (I15).

The real product, all processes of it, its logs at DEBUG, lives through renewals, failures, poison,
a `kill -9` and a store that goes away. Then everything it wrote and said is searched.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis
from kombu import Connection, Exchange
from sqlalchemy import text, update

from tests.canary import hunt
from tests.security.hunted import BITBUCKET, GOOGLE, Hunted, flower, hunted
from tests.servers import Server
from worker.rehearsal.config import LOGS_AUTHORIZATION, TENANT
from worker.store.engine import open_engine, writing
from worker.store.tables import GrantRow


def live_through_it(product: Hunted) -> str:
    """Logins, renewals, every kind of trouble, and questions while it lasts."""
    rosa = product.login(GOOGLE, "rosa")
    emil = product.login(GOOGLE, "emil")
    ida = product.login(BITBUCKET, "ida")
    product.wait_for_renewals(3)
    trouble_at_the_providers(product)
    poison_at_the_doors(product)
    product.stage.do("withdraw_consent", provider="google-oauth2", subject="emil")
    product.kill_worker()
    product.wait_for(lambda: product.state_of(emil, GOOGLE) == "needs_reauth")
    product.wait_for_renewals(2)
    questions(product, rosa, emil)
    return ida


def trouble_at_the_providers(product: Hunted) -> None:
    """Answers cut, lost, refused; and one provider that repeats our tokens in its errors."""
    echo = json.dumps({"error": "server_error", "error_description": product.birds.refresh})
    for fault in ("cut", "no_access_token", "html_502_after"):
        product.stage.do("faults", provider="google-oauth2", profile=fault, count=1)
    product.stage.do("faults", provider="bitbucket", profile="error_200", count=1, body=echo)
    trouble = {"profile": "unavailable", "body": echo, "endpoint": "any"}
    product.stage.do("faults", provider="auth0", count=2, **trouble)
    product.login(GOOGLE, "otto")
    product.wait_for(lambda: not any(product.stage.ledger()["faults"].values()))


def poison_at_the_doors(product: Hunted) -> None:
    """What strangers send, and what nobody can read."""
    hooks = f"/hooks/auth0/{TENANT}"
    known = {"Authorization": LOGS_AUTHORIZATION}
    torn = b'{"log_id":"1","data":\n\x00\xff not JSON'
    product.get(f"{hooks}/logs", method="POST", content=torn, headers=known)
    for door in ("logs", "events", "actions", "nothing"):
        product.get(f"{hooks}/{door}", method="POST", content=torn)
    if product.environment["EVERGRANT_BROKER_URL"].startswith("redis"):
        with Connection(product.environment["EVERGRANT_BROKER_URL"]) as broker:
            exchange = Exchange("evergrant.events", type="topic")
            broker.Producer().publish(torn, exchange=exchange, routing_key="auth0.x.y")


def questions(product: Hunted, rosa: str, emil: str) -> None:
    """An app is served its token; everything else that answers is kept for the hunt."""
    served = product.get(f"/v1/{TENANT}/users/{rosa}/tokens/{GOOGLE}")
    assert served.json()["access_token"].startswith(product.birds.access)
    assert product.birds.refresh.encode() not in served.content
    product.said.clear()
    for path in (
        *("/metrics", "/status", "/healthz", "/readyz", "/openapi.json"),
        f"/v1/{TENANT}/users/{rosa}/tokens",
        f"/v1/{TENANT}/users/{rosa}/tokens/{GOOGLE}?min_ttl=999999999",
        f"/v1/{TENANT}/users/{rosa}/tokens/{GOOGLE}?stale={product.birds.access}",
        f"/v1/{TENANT}/users/nobody/tokens/{GOOGLE}",
    ):
        product.get(path)
    (held,) = product.get(f"/v1/{TENANT}/users/{emil}/tokens").json()["tokens"]
    assert product.get(f"/v1/{TENANT}/grants/{held['id']}").status_code == 200
    assert held["state"] == "needs_reauth"


def commands(product: Hunted, ida: str) -> None:
    """What an operator sees, and a grant given up."""
    (leaves,) = product.get(f"/v1/{TENANT}/users/{ida}/tokens").json()["tokens"]
    typed = [
        ("grants", "explain", leaves["id"]),
        ("grants", "revoke", leaves["id"]),
        ("doctor", "--deep", "--json"),
    ]
    with ThreadPoolExecutor() as terminals:
        list(terminals.map(lambda words: product.command(*words), typed))


def plant(product: Hunted) -> None:
    """In each kind of place, as a bug of ours would."""
    engine = open_engine(product.environment["EVERGRANT_DATABASE_URL"])
    with writing(engine) as connection:
        connection.execute(update(GrantRow).values(last_error=f"400 {product.birds.refresh}"))
    engine.dispose()
    data = product.directory / "data"
    (data / "metrics" / "planted").write_text(f'provider="{product.birds.access}"')
    (data / "journal" / "planted").write_bytes(b"\1" + product.birds.auth0.encode())
    product.said["planted"] = f"no grant {product.birds.access}".encode()


def nothing_sings_but_what_is_planted(product: Hunted) -> None:
    log = product.product.log.read_bytes()
    assert b"debug" in log, "the logs are not at DEBUG: their silence proves nothing"
    assert product.hits() == []
    plant(product)
    hits = product.hits()
    assert {hit.label for hit in hits} == {"refresh", "access", "auth0-client-secret"}
    assert {"rows", "planted"} < {hit.where for hit in hits}


def test_embedded_it_leaves_no_secret_anywhere(tmp_path, monkeypatch):
    """SQLite with its write-ahead log, and the queue of files: all in the data directory."""
    with hunted(tmp_path, monkeypatch, files=list, EVERGRANT_BROKER_URL="embedded") as product:
        live_through_it(product)
        nothing_sings_but_what_is_planted(product)


def test_on_servers_it_leaves_no_secret_anywhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_server: Callable[[str], Server],
) -> None:
    """PostgreSQL's files and write-ahead log, Redis's append-only file, Flower's pages."""
    database, broker = own_server("postgres"), own_server("redis")
    _migrated(database.url)

    def files() -> list[Path]:
        with contextlib.suppress(Exception):  # stopped: flushed by that
            _checkpoint(database.url)
        data = database.home / "data"
        return [data / "base", data / "pg_wal", database.home / "output.log", broker.home]

    settings = {"EVERGRANT_DATABASE_URL": database.url, "EVERGRANT_BROKER_URL": broker.url}
    with hunted(tmp_path, monkeypatch, files=files, **settings) as product, flower(product) as look:
        commands(product, live_through_it(product))
        the_store_goes_away(product, database)
        product.said |= look()
        assert b"renew.google-oauth2" in b"".join(product.said.values())
        nothing_sings_but_what_is_planted(product)
        with redis.Redis.from_url(broker.url) as client:
            client.rpush("evergrant:planted", product.birds.refresh)
        product.wait_for(lambda: hunt(product.birds.all(), [broker.home]))


def the_store_goes_away(product: Hunted, database: Server) -> None:
    """Events wait in the spool, rotated tokens in the journal; both are searched as they wait."""
    spool = product.directory / "data" / "spool"
    database.stop()
    product.login(GOOGLE, "lena")
    product.wait_for(lambda: any(file.stat().st_size for file in spool.rglob("*.*")))
    assert hunt(product.birds.all(), [product.directory / "data", product.product.log]) == []
    database.start()
    product.wait_for(lambda: httpx.get(f"{product.product.url}/readyz").status_code == 200)
    product.wait_for_renewals(2)


def _migrated(url: str) -> None:
    from worker.store import migrate

    engine = open_engine(url)
    migrate.upgrade(engine)
    engine.dispose()


def _checkpoint(url: str) -> None:
    engine = open_engine(url)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("CHECKPOINT"))
    engine.dispose()
