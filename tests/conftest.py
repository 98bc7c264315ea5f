"""What every test may ask for: throwaway servers, an empty migrated store, a vault, a clock.

    engine          an Engine on an empty, migrated store; the test runs on SQLite and PostgreSQL
    store_url       the same as a URL, for processes of their own
    store_files     a function: where the store's bytes lie on disk, flushed, for `tests.canary`
    sqlite_engine   where the database does not matter
    postgres_url    an empty database of its own, not migrated
    redis_url       an empty Redis database
    rabbitmq_url    an empty vhost
    vault           an `AesVault` over fresh keys
    clock           a `FakeClock`, moved by hand
    own_server      a function: a server of the test's own, to stop, kill and start again
    tell, count     functions: what a drill saw, told at the end of the run (`tests.telling`)

A server whose binary is missing skips its tests, unless EVERGRANT_REQUIRE_SERVICES=1.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from tests.clock import FakeClock
from tests.restricted import restricted
from tests.servers import KINDS, Missing, RabbitMQ, Server, SessionServers
from tests.telling import count, tell, tell_all
from worker.store import migrate
from worker.store.engine import open_engine
from worker.store.privileges import WEB
from worker.store.tables import Base
from worker.vault import AesVault, Keyring

__all__ = ["count", "tell"]  # fixtures

_ROOT = "EVERGRANT_TEST_SERVERS"  # directory of the session's servers, told to xdist's workers
_OWNER = "EVERGRANT_TEST_OWNER"  # process whose end is theirs
_LEFT_OUT = "no server: "


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        root = tempfile.mkdtemp(prefix="evergrant-tests-")
        Path(root).chmod(0o755)  # the lent user of PostgreSQL has to reach its own directory
        os.environ[_ROOT], os.environ[_OWNER] = root, str(os.getpid())


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        _session_servers().end()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with the servers it needs, so that `-m "not rabbitmq"` works.

    Drills are minutes long: they run when asked for, by `make drill`.
    """
    drills = [item for item in items if item.get_closest_marker("drill")]
    if os.environ.get("EVERGRANT_SEED"):  # one story is replayed, and nothing else
        drills = [item for item in drills if "simulation" not in item.path.parts]
    if os.environ.get("EVERGRANT_DRILL") != "long" or os.environ.get("EVERGRANT_SEED"):
        items[:] = [item for item in items if item not in drills]
        config.hook.pytest_deselected(items=drills)
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        for name in KINDS:
            if f"{name}_url" in fixtures or parameters.get("store_url") == name:
                item.add_marker(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tell_all(terminalreporter)
    counts: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if _LEFT_OUT in reason:
            why = reason.partition(_LEFT_OUT)[2]
            counts[why] = counts.get(why, 0) + 1
    if counts:
        terminalreporter.section("left out")
        for why, count in sorted(counts.items()):
            terminalreporter.line(f"{count} tests: {why}")
        terminalreporter.line("To run them as well: make services (Debian), then make test again.")


def _session_servers() -> SessionServers:
    return SessionServers(Path(os.environ[_ROOT]), int(os.environ[_OWNER]))


def _running(name: str) -> Server:
    try:
        return _session_servers().get(name)
    except Missing as missing:
        _leave_out(missing)


def _leave_out(missing: Missing) -> NoReturn:
    if os.environ.get("EVERGRANT_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{_LEFT_OUT}{missing}", pytrace=False)
    pytest.skip(f"{_LEFT_OUT}{missing}")


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Server]]:
    """`own_server("postgres")`: started, and ended with the test."""
    root = Path(tempfile.mkdtemp(prefix="evergrant-own-"))
    root.chmod(0o755)
    made: list[Server] = []

    def make(name: str) -> Server:
        place = root / str(len(made))
        place.mkdir()
        server = KINDS[name](place)
        try:
            server.start()
        except Missing as missing:
            _leave_out(missing)
        made.append(server)
        return server

    yield make
    for server in made:
        server.kill()
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def _postgres_server() -> str:
    return _running("postgres").url


@pytest.fixture
def postgres_url(_postgres_server: str) -> Iterator[str]:
    name = f"t_{uuid4().hex}"
    _administer(_postgres_server, f'CREATE DATABASE "{name}"')
    yield _database(_postgres_server, name)
    _administer(_postgres_server, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def _migrated_postgres(_postgres_server: str) -> str:
    """One database per xdist worker, migrated once, emptied before each test."""
    name = f"store_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    _administer(_postgres_server, f'CREATE DATABASE "{name}"')
    url = _database(_postgres_server, name)
    engine = open_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, copied for each test."""
    path = tmp_path_factory.mktemp("template") / "evergrant.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate.upgrade(engine)
    engine.dispose()  # the last connection folds the write-ahead log into the file
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return _copied(request, tmp_path)
    url: str = request.getfixturevalue("_migrated_postgres")
    _empty(url)
    return url


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    opened = open_engine(store_url)
    yield opened
    opened.dispose()


@pytest.fixture
def web_engine(engine: Engine) -> Iterator[Engine]:
    """The same store as the web process may use it; where there are no roles, the same engine."""
    if engine.dialect.name != "postgresql":
        yield engine
        return
    with restricted(engine, WEB) as web:
        yield web


@pytest.fixture
def store_files(engine: Engine) -> Callable[[], list[Path]]:
    def flushed() -> list[Path]:
        if engine.dialect.name == "sqlite":
            return [Path(str(engine.url.database)).parent]
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("CHECKPOINT"))
        data = _session_servers().get("postgres").home / "data"
        return [data / "base", data / "pg_wal"]

    return flushed


@pytest.fixture
def sqlite_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(_copied(request, tmp_path))
    yield opened
    opened.dispose()


def _copied(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    copy = tmp_path / "evergrant.db"
    shutil.copyfile(request.getfixturevalue("_migrated_sqlite"), copy)
    return f"sqlite:///{copy}"


def _empty(url: str) -> None:
    """Empty every table; whatever an earlier test left connected is thrown out first."""
    tables = ", ".join(f'"{table.name}"' for table in Base.metadata.sorted_tables)
    engine = open_engine(url)
    with engine.begin() as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(
            text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        )
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
    engine.dispose()


def _administer(url: str, statement: str) -> None:
    engine = open_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _database(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def _redis_server() -> str:
    return _running("redis").url


@pytest.fixture
def redis_url(_redis_server: str) -> str:
    """Each xdist worker has a numbered database of its own, emptied before each test."""
    import redis

    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    url = f"{_redis_server.rpartition('/')[0]}/{worker}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="session")
def _rabbitmq_server() -> RabbitMQ:
    server = _running("rabbitmq")
    assert isinstance(server, RabbitMQ)
    return server


@pytest.fixture
def rabbitmq_url(_rabbitmq_server: RabbitMQ) -> Iterator[str]:
    import httpx

    name = f"t{uuid4().hex}"
    management = httpx.Client(
        base_url=f"{_rabbitmq_server.management_url}/api",
        auth=("guest", "guest"),
        trust_env=False,
        timeout=30,
    )
    with management:
        management.put(f"/vhosts/{name}").raise_for_status()
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        management.put(f"/permissions/{name}/guest", json=everything).raise_for_status()
        yield f"amqp://guest:guest@127.0.0.1:{_rabbitmq_server.port}/{name}"
        management.delete(f"/vhosts/{name}").raise_for_status()


@pytest.fixture
def vault() -> AesVault:
    return AesVault(Keyring.generate())


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
