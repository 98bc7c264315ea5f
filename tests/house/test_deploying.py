"""docs/deploying.md is followed as it stands; then each role starts with what compose gives it."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import make_url

from tests.house.containers import COMPOSE, OURS, ROOT, SERVICES, Container, follow_the_page
from tests.servers import RabbitMQ, Redis, Server, free_port
from worker.domain.errors import ConfigurationError
from worker.settings import load
from worker.store.engine import open_engine
from worker.vault import Keyring, Purpose

START = 60.0  # seconds; the machine that runs the suite may be busy
BROKERS = ("rabbitmq", "redis")


@pytest.fixture(scope="module")
def followed() -> Iterator[Callable[[str], Path]]:
    """`followed(broker)`: the `docker/` directory as the page leaves it; uid 10001 may enter."""
    made: dict[str, Path] = {}

    def follow(broker: str = "rabbitmq") -> Path:
        if broker not in made:
            place = Path(tempfile.mkdtemp(prefix="evergrant-deploying-"))
            place.chmod(0o755)
            made[broker] = place / "docker"
            follow_the_page(place, broker)
        return made[broker]

    yield follow
    for docker in made.values():
        shutil.rmtree(docker.parent)


@pytest.fixture
def container(followed) -> Iterator[Callable[..., Container]]:
    docker = followed()
    yield lambda service: Container.of(service, docker, {})
    shutil.rmtree(docker.parent / "containers", ignore_errors=True)


def _read(box: Container):
    role = SERVICES[box.service]["command"][0]
    return load(box.environment, directory=box.root, role=role)


@pytest.mark.parametrize("service", OURS)
def test_a_role_has_every_secret_that_its_settings_name(container, service):
    settings = _read(container(service))
    assert not settings.warnings
    webhooks = [tenant.logs_authorization for tenant in settings.tenants.values()]
    assert all(webhooks) is (service != "scheduler")


@pytest.mark.parametrize("service", OURS)
def test_a_role_has_no_secret_that_it_does_not_read(container, service):
    box = container(service)
    for secret in box.secrets():
        kept = secret.rename(secret.with_name("elsewhere"))
        with pytest.raises(ConfigurationError, match=rf"{secret}: No such file"):
            _read(box)
        kept.rename(secret)


def test_web_opens_access_tokens_and_scheduler_migration_and_flower_nothing(container):
    def keys(service: str) -> Keyring:
        return Keyring.from_json(Path(_read(container(service)).keyring).read_bytes())

    whole, part = keys("worker-1"), keys("web")
    assert {key.purpose for key in whole.keys} == set(Purpose)
    assert list(part.keys) == whole.of(Purpose.ACCESS)
    for service in ("scheduler", "migrate", "flower"):
        assert not Path(_read(container(service)).keyring).exists()


def test_web_and_scheduler_speak_to_the_database_as_roles_of_their_own(container):
    users = {s: make_url(_read(container(s)).database_url).username for s in OURS if s != "flower"}
    owned = {service: user for service, user in users.items() if user == "evergrant"}
    assert set(owned) == {"migrate", "worker-1", "worker-2", "admin"}
    given = SERVICES["migrate"]["command"]
    assert users["web"] == given[given.index("--web-role") + 1]
    assert users["scheduler"] == given[given.index("--scheduler-role") + 1]


def test_a_secret_is_what_was_typed_and_nothing_else(followed):
    secret = followed() / "secrets/auth0_client_secret"
    assert secret.read_text().strip() == "the-client-secret"


def test_secrets_are_closed_to_others_and_open_to_the_servers(followed):
    for broker, settings in (("rabbitmq", "rabbitmq_definitions.json"), ("redis", "redis.conf")):
        secrets = followed(broker) / "secrets"
        assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
        for file in filter(Path.is_file, secrets.rglob("*")):
            for_servers = file.name in ("postgres_password", "postgres_roles.sql", settings)
            assert stat.S_IMODE(file.stat().st_mode) == (0o444 if for_servers else 0o400), file


def test_every_file_that_compose_mounts_is_there(followed):
    for broker in BROKERS:
        docker = followed(broker)
        assert (docker / ".env").read_text() == f"COMPOSE_PROFILES={broker}\n"
        running = [s for s in SERVICES.values() if set(s.get("profiles", [broker])) & {broker}]
        mounts = [m.split(":")[0] for s in running for m in s.get("volumes", [])]
        files = [COMPOSE["secrets"][n]["file"] for s in running for n in s.get("secrets", [])]
        for name in (*filter(lambda m: m.startswith("."), mounts), *files):
            assert (docker / name).exists(), f"{broker}: {name}"


def test_what_the_page_leaves_is_not_committed(followed):
    docker = followed("rabbitmq")
    left = {p.relative_to(docker.parent) for p in docker.rglob("*") if p.is_file()}
    new = sorted(str(path) for path in left if not (ROOT / path).exists())
    assert "docker/evergrant.toml" in new
    assert "docker/secrets/broker_url" in new
    for path in (*new, "web-keyring.json"):
        asked = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
        assert asked.returncode == 0, path


def test_a_rotation_as_keys_md_has_it_reaches_the_containers(followed):
    """Those that hold the directory mounted: what each sees after each step opens the other's."""
    docker = followed("redis")
    admin, web, worker = (Container.of(s, docker, {}) for s in ("admin", "web", "worker-1"))

    def keyring(box: Container) -> Keyring:
        return Keyring.from_json((box.root / "run/keyring/keyring.json").read_bytes())

    before, lines = keyring(worker), _commands_of_a_rotation()
    assert [line[1] for line in lines] == [
        "add",
        "export",
        "secrets/web-keyring/next.json",
        "promote",
    ]
    added: list[str] = []
    for words in lines:
        assert {key.id for key in keyring(web).keys} >= {keyring(worker).primary(Purpose.ACCESS).id}
        if words[0] == "mv":
            (docker / words[1]).rename(docker / words[2])
            continue
        told = [admin.inside(w) for w in words if not re.fullmatch("[0-9a-f]{8}", w)]
        ids = added if "promote" in words else []
        done = subprocess.run(
            **admin.command(*told, *ids, "--json"), capture_output=True, check=True
        )
        if "add" in words:
            added = [key["id"] for key in json.loads(done.stdout)]
    assert keyring(worker).primary(Purpose.ACCESS) != before.primary(Purpose.ACCESS)
    assert {k.id for k in keyring(web).keys} == {k.id for k in keyring(worker).of(Purpose.ACCESS)}
    shutil.rmtree(docker.parent / "containers")


def _commands_of_a_rotation() -> list[list[str]]:
    """Without the rewrap, which wants the store."""
    page = (ROOT / "docs/keys.md").read_text()
    told = re.findall(r"^\$ (?:docker compose run --rm admin (?=keys)|(?=mv ))(.*)$", page, re.M)
    return [line.split() for line in told if "rewrap" not in line]


def _with_the_users_made(server: Server, docker: Path) -> tuple[str, str]:
    """Give a throwaway broker what compose mounts; an address there, and the same here."""
    if isinstance(server, RabbitMQ):
        definitions = json.loads((docker / "secrets/rabbitmq_definitions.json").read_text())
        httpx.post(
            f"{server.management_url}/api/definitions",
            json=definitions,
            auth=("guest", "guest"),
            trust_env=False,
        ).raise_for_status()
        return "@rabbitmq//", f"@127.0.0.1:{server.port}//"
    import redis

    word, password = (docker / "secrets/redis.conf").read_text().split()
    assert isinstance(server, Redis)
    with closing(redis.Redis(port=server.port)) as client:
        client.config_set(word, password)
    return "@redis/0", f"@127.0.0.1:{server.port}/0"


class Deployment:
    """The services of compose as processes; addresses and ports are this machine's."""

    def __init__(self, docker: Path, addresses: dict[str, str]) -> None:
        measured = {"web": "port", "flower": "flower_port", "worker-1": "metrics_port",
                    "worker-2": "metrics_port"}  # fmt: skip
        self._ports = {service: {name: free_port()} for service, name in measured.items()}
        self._boxes = {
            service: Container.of(service, docker, addresses, **self._ports.get(service, {}))
            for service in OURS
        }
        self.flower_user = (docker / "secrets/flower_auth").read_text().strip()
        self._logs = docker.parent / "logs"
        self._logs.mkdir(exist_ok=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._http = httpx.Client(trust_env=False, timeout=10)

    def run(self, service: str, *words: str) -> bytes:
        done = subprocess.run(
            **self._boxes[service].command(*words), capture_output=True, check=False
        )
        assert done.returncode == 0, f"{service}: {done.stderr.decode()}"
        return done.stdout

    def start(self, *services: str) -> None:
        for service in services:
            with (self._logs / service).open("wb") as log:
                self._running[service] = subprocess.Popen(
                    **self._boxes[service].command(), stdout=log, stderr=log
                )

    def wait_for(self, service: str, ready: Callable[[], object]) -> None:
        until = time.monotonic() + START
        while not ready():
            assert self._running[service].poll() is None, f"{service} ended:\n{self.said(service)}"
            assert time.monotonic() < until, f"{service} is not ready:\n{self.said(service)}"
            time.sleep(0.1)

    def get(self, service: str, path: str, user: str = ":") -> httpx.Response | None:
        [port] = self._ports[service].values()
        name, _, password = user.partition(":")
        try:
            answer = self._http.get(f"http://127.0.0.1:{port}{path}", auth=(name, password))
        except httpx.TransportError:
            return None
        return answer if answer.is_success else None

    def said(self, service: str) -> str:
        return (self._logs / service).read_text()[-4000:]

    def end(self) -> None:
        self._http.close()
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(params=BROKERS)
def deployment(request, followed, own_server) -> Iterator[Deployment]:
    docker = followed(request.param)
    theirs, here = _with_the_users_made(own_server(request.param), docker)
    url = own_server("postgres").url
    with closing(open_engine(url).raw_connection()) as begun:  # as a new database begins
        begun.cursor().execute((docker / "secrets/postgres_roles.sql").read_text())
        begun.commit()
    database = re.sub(r".*@", "@", url)
    made = Deployment(docker, {theirs: here, "@postgres/evergrant": database})
    yield made
    made.end()
    shutil.rmtree(docker.parent / "containers")


@pytest.mark.timeout(400)  # eight processes and two servers start
def test_every_role_starts_with_exactly_what_compose_gives_it(deployment):
    deployment.run("migrate")
    deployment.start("web", "worker-1", "worker-2", "scheduler", "flower")
    deployment.wait_for("web", lambda: deployment.get("web", "/readyz"))
    deployment.wait_for("scheduler", lambda: "beat: Starting" in deployment.said("scheduler"))
    for worker in ("worker-1", "worker-2"):
        deployment.wait_for(worker, lambda worker=worker: deployment.get(worker, "/metrics"))
        deployment.run(worker, *SERVICES[worker]["healthcheck"]["test"][2:])
    deployment.wait_for("flower", lambda: _workers_seen(deployment) == 2)
    assert json.loads(deployment.run("admin", "keys", "list", "--json"))


def _workers_seen(deployment: Deployment) -> int:
    """By Flower, through the broker user of its own."""
    told = deployment.get("flower", "/workers?json=1", deployment.flower_user)
    return len(told.json()["data"]) if told else 0
