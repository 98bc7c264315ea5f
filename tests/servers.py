"""Throwaway PostgreSQL, Redis and RabbitMQ from the binaries on this machine, on free ports.

Each server runs under a guard (guard.py) that ends it when the test session
dies, however it dies. The session's servers are started by whichever xdist worker asks first and
ended by the session that owns the directory; a drill makes a server of its own to kill and start.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests import guard

START_SECONDS = 60.0


class Missing(Exception):
    """The machine has no such server; the message says what to install."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """One server: `start` returns when it answers, `kill` is `kill -9`; its data stay."""

    name = ""
    package = ""  # Debian's
    stop_signal = signal.SIGTERM

    def __init__(self, root: Path, *, owner: int | None = None) -> None:
        """`root`: an existing directory all users may enter; `owner`: the guard outlives it not."""
        self.home = root / self.name
        self.port = free_port()
        self.guard: int | None = None
        self._owner = owner or os.getpid()

    @property
    def url(self) -> str:
        raise NotImplementedError

    def start(self) -> None:
        fresh = not self.home.exists()
        if fresh:
            self.home.mkdir()
            self.prepare()
        command, environment = self.command()
        with (self.home / "output.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, guard.__file__, *self._guarded(), *command],
                env={**os.environ, **environment},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.guard = process.pid
        self._await(process)

    def _guarded(self) -> Sequence[str]:
        return [str(self._owner), str(int(self.stop_signal)), self.user]

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                log = (self.home / "output.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self.name} did not start:\n{log}")
            time.sleep(0.05)

    def stop(self) -> None:
        """As an operator stops it; returns when it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut ends it (the machine's disk cache survives)."""
        self._end(signal.SIGUSR1)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its processes stand still (SIGSTOP): connections stay, and nothing is answered."""
        processes = list(_descendants(self.guard)) if self.guard is not None else []
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self.guard is None:
            return
        guard.end(self.guard, how)
        self.guard = None

    @property
    def user(self) -> str:
        """Whom the server runs as; "" means whoever we are."""
        return ""

    def prepare(self) -> None:
        """Make the data directory."""

    def command(self) -> tuple[Sequence[str], dict[str, str]]:
        raise NotImplementedError

    def ready(self) -> bool:
        return answers(self.port)


class Postgres(Server):
    """PostgreSQL, superuser `evergrant`, trust on loopback; refuses root, so root lends a user."""

    name = "postgres"
    package = "postgresql"
    stop_signal = signal.SIGINT  # "fast": disconnects clients

    @property
    def url(self) -> str:
        return f"postgresql://evergrant@127.0.0.1:{self.port}/postgres"

    @property
    def user(self) -> str:
        return _lent_user("postgres", "nobody") if os.getuid() == 0 else ""

    def prepare(self) -> None:
        if self.user:
            shutil.chown(self.home, self.user)
        plain = ["--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run(
            [_postgres("initdb"), "--pgdata=data", "--auth=trust", "--username=evergrant", *plain],
            cwd=self.home,
            user=self.user or None,
            group=pwd.getpwnam(self.user).pw_gid if self.user else None,
            extra_groups=[] if self.user else None,
            check=True,
            capture_output=True,
        )

    def command(self) -> tuple[Sequence[str], dict[str, str]]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",  # the machine does not lose power in a test; processes may
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
        }
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        return [_postgres("postgres"), "-D", str(self.home / "data"), *flags], {}

    def ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class Standby(Postgres):
    """An asynchronous replica of `primary`: what it has not received at its promotion is lost."""

    name = "standby"

    def __init__(self, root: Path, primary: Postgres) -> None:
        super().__init__(root)
        self._primary = primary

    def prepare(self) -> None:
        if self.user:
            shutil.chown(self.home, self.user)
        source = f"--dbname={self._primary.url}"
        subprocess.run(
            [
                _postgres("pg_basebackup"),
                source,
                "--pgdata=data",
                "--write-recovery-conf",
                "-c",
                "fast",
            ],
            cwd=self.home,
            user=self.user or None,
            group=pwd.getpwnam(self.user).pw_gid if self.user else None,
            extra_groups=[] if self.user else None,
            check=True,
            capture_output=True,
        )

    def received(self) -> bool:
        """Whether it has replayed all that the primary has written."""
        with self._asked(self._primary) as primary, self._asked(self) as mine:
            wal = primary.execute("SELECT pg_current_wal_lsn()").fetchone()
            return bool(
                mine.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", wal).fetchone()[0]
            )

    def promote(self) -> None:
        """It is the store from now on, and begins another history."""
        with self._asked(self) as mine:
            mine.execute("SELECT pg_promote(wait => true)")

    @staticmethod
    def _asked(server: Postgres) -> Any:
        import psycopg

        return psycopg.connect(server.url, autocommit=True)


class Redis(Server):
    """Redis as docs/queue.md asks for it: append-only file, nothing evicted."""

    name = "redis"
    package = "redis-server"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> tuple[Sequence[str], dict[str, str]]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.home),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "databases": "64",
            "save": "",
        }
        flags = [flag for name, value in settings.items() for flag in (f"--{name}", value)]
        return [_binary("redis-server", self.package), *flags], {}

    def ready(self) -> bool:
        import redis

        try:
            with redis.Redis(port=self.port, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:  # refused, or still loading its file
            return False


class RabbitMQ(Server):
    """RabbitMQ with the management plugin, beside any other node: own epmd, name and directories.

    Debian's /usr/sbin/rabbitmq-server changes user and reads /etc; the script it calls does
    neither when told otherwise by RABBITMQ_* variables
    (https://www.rabbitmq.com/docs/configure#supported-environment-variables).
    """

    name = "rabbitmq"
    package = "rabbitmq-server"

    def __init__(self, root: Path, *, owner: int | None = None) -> None:
        super().__init__(root, owner=owner)
        self.management_port = free_port()
        self._distribution_port = free_port()
        self._epmd_port = free_port()
        self._node = f"evergrant-{self.port}@localhost"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.management_port}"

    def prepare(self) -> None:
        (self.home / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.home / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n"
            "log.file.level = warning\nlog.console = false\n"
            "disk_free_limit.absolute = 1MB\n"
        )
        (self.home / "rabbitmq-env.conf").write_text("")

    def command(self) -> tuple[Sequence[str], dict[str, str]]:
        home = self.home
        environment = {
            "HOME": str(home),  # the Erlang cookie lies here
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_SCHEMA_DIR": str(home / "schema"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "config"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +S 1:1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        # epmd in the foreground, or the node would leave a daemon behind
        script = f'"{_epmd()}" & exec "{_rabbitmq()}"'
        return ["/bin/sh", "-c", script], environment

    def ready(self) -> bool:
        import httpx

        try:
            answer = httpx.get(
                f"{self.management_url}/api/health/checks/local-alarms",
                auth=("guest", "guest"),
                trust_env=False,
                timeout=5,
            )
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and answers(self.port)


KINDS: dict[str, type[Server]] = {kind.name: kind for kind in (Postgres, Redis, RabbitMQ)}


class SessionServers:
    """The servers of one test session, shared by its xdist workers through a directory."""

    def __init__(self, root: Path, owner: int) -> None:
        self._root = root
        self._owner = owner

    def get(self, name: str) -> Server:
        """The running server of that name, started if nobody did. Raises: Missing."""
        with self._locked(name):
            note = self._root / f"{name}.json"
            server = KINDS[name](self._root, owner=self._owner)
            if note.exists():
                vars(server).update(json.loads(note.read_text()), home=self._root / name)
                return server
            server.start()
            kept = {key: value for key, value in vars(server).items() if key != "home"}
            note.write_text(json.dumps(kept))
            return server

    def end(self) -> None:
        """Stop whatever was started, and remove the directory."""
        for note in self._root.glob("*.json"):
            guard.end(json.loads(note.read_text())["guard"], signal.SIGUSR1)
        shutil.rmtree(self._root, ignore_errors=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self._root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _descendants(pid: int) -> Iterator[int]:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from _descendants(int(child))


def _binary(name: str, package: str, *places: str) -> str:
    path = os.pathsep.join([*places, os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"no {name} on this machine (Debian package {package})")
    return found


def _postgres(name: str) -> str:
    def version(place: Path) -> int:
        digits = place.parent.name
        return int(digits) if digits.isdigit() else 0

    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version, reverse=True)
    return _binary(name, Postgres.package, *map(str, places))


def _rabbitmq() -> str:
    places = [Path("/usr/lib/rabbitmq/bin"), *Path("/opt").glob("rabbitmq*/sbin")]
    _binary("erl", RabbitMQ.package)
    return _binary("rabbitmq-server", RabbitMQ.package, *map(str, places))


def _epmd() -> str:
    places = Path("/usr/lib/erlang").glob("erts-*/bin")
    return _binary("epmd", RabbitMQ.package, *map(str, places))


def _lent_user(*names: str) -> str:
    for name in names:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise Missing(f"PostgreSQL refuses root, and there is no user {' or '.join(names)}")
