"""The image and the deployment, as far as they can be tried without a Docker engine.

What needs an engine (building the image, starting the services) is not run here; docs/deploying.md
says what was run on one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from tests.house.containers import COMPOSE, OURS, SERVICES
from worker.cli.app import app

DOCKER = Path(__file__).parents[2] / "docker"
WORKERS = [name for name in OURS if SERVICES[name]["command"] == ["worker"]]


@pytest.fixture(scope="module")
def compose() -> dict:
    return COMPOSE


def test_the_dockerfile_passes_the_linter():
    hadolint = Path(sys.executable).with_name("hadolint")
    rules = ["--ignore", "DL3008"]  # Debian keeps one version of a package: a pin would only break
    done = subprocess.run(
        [hadolint, *rules, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_and_checks_its_own_health():
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in last_stage
    assert any(line.startswith("HEALTHCHECK") for line in last_stage)
    assert not any("requirements" in line for line in last_stage), "built in the first stage only"


def test_one_service_builds_the_image_for_all(compose):
    """Compose labels an image with its service: seven builds are seven images, and every `up` would
    start all roles anew."""
    assert [name for name in OURS if "build" in compose["services"][name]] == ["migrate"]
    assert {compose["services"][name]["pull_policy"] for name in OURS} == {"never"}


def test_the_database_is_healthy_only_when_it_answers_the_network(compose):
    """While the image makes the database, a server answers on a socket: too early."""
    check = compose["services"]["postgres"]["healthcheck"]
    assert check["test"][:4] == ["CMD", "pg_isready", "-h", "127.0.0.1"]
    assert all(
        "start_period" in compose["services"][s]["healthcheck"] for s in ("postgres", "rabbitmq")
    )


def test_nothing_has_celery_sleep_out_its_soft_shutdown():
    """With it a worker claims for 150 s after SIGTERM, and is killed then."""
    for file in (
        DOCKER / "Dockerfile",
        DOCKER / "compose.yaml",
        DOCKER.parent / "docs/deploying.md",
    ):
        assert "REMAP_SIGTERM" not in file.read_text(), file


def test_the_doctor_that_the_page_calls_finds_the_web_role(compose):
    assert (
        "docker compose run --rm admin doctor" in (DOCKER.parent / "docs/deploying.md").read_text()
    )
    assert compose["services"]["admin"]["environment"]["EVERGRANT_HOST"] == "web"


@pytest.mark.parametrize("role", OURS)
def test_a_role_of_ours_has_a_read_only_root_and_no_privileges(compose, role):
    service = compose["services"][role]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "10001:10001"
    assert "no-new-privileges:true" in service["security_opt"]


def test_no_secret_stands_in_the_environment(compose):
    for name in OURS:
        for key, value in compose["services"][name]["environment"].items():
            secret = any(word in key for word in ("URL", "SECRET", "AUTH", "KEYRING"))
            assert not secret or re.match(r"(file:/run/secrets|/run/keyring)/", value), (name, key)


def test_a_keyring_is_mounted_with_its_directory():
    """A rotation renames a new file into its place: a mount of the file alone would miss it."""
    for name in OURS:
        mounts = [mount for mount in SERVICES[name].get("volumes", []) if "keyring" in mount]
        assert all(mount.split(":")[1].endswith("keyring") for mount in mounts)
        assert len(mounts) == {"web": 1, "admin": 2, **dict.fromkeys(WORKERS, 1)}.get(name, 0)
        assert name == "admin" or all(mount.endswith(":ro") for mount in mounts)


def test_every_secret_and_volume_that_a_service_names_is_declared(compose):
    for service in compose["services"].values():
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        named = {v.split(":")[0] for v in service.get("volumes", []) if not v.startswith(".")}
        assert named <= set(compose["volumes"])


def test_flower_gets_neither_a_key_nor_the_database(compose):
    assert set(compose["services"]["flower"]["secrets"]) == {"flower_broker_url", "flower_auth"}


def test_nothing_but_loopback_is_published(compose):
    ports = [p for s in compose["services"].values() for p in s.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_each_worker_keeps_a_journal_of_its_own_that_survives_the_container():
    """A tmpfs would lose tokens that the provider has already rotated (I3)."""
    places = [
        v for w in WORKERS for v in SERVICES[w]["volumes"] if v.endswith(":/var/lib/evergrant")
    ]
    assert len(set(places)) == len(WORKERS) >= 2
    for worker in WORKERS:
        assert not any("/var/lib/evergrant" in path for path in SERVICES[worker]["tmpfs"])


def test_every_web_and_worker_is_measured_and_its_silence_noticed():
    scraped = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    targets = [
        target for job in scraped for one in job["static_configs"] for target in one["targets"]
    ]
    assert targets == ["web:8377", *(f"{worker}:9102" for worker in WORKERS)]
    rules = yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"][0]["rules"]
    conditions = " ".join(rule["expr"] for rule in rules)
    assert 'up{job="evergrant"} == 0' in conditions
    assert "absent(" in conditions


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_one_broker_runs_and_nobody_waits_for_the_other(broker):
    assert SERVICES[broker]["profiles"] == [broker]
    for name in (*OURS, "prometheus"):
        waits = SERVICES[name].get("depends_on", {})
        for other in set(waits) & {"rabbitmq", "redis"}:
            assert waits[other] == {"condition": "service_healthy", "required": False}


def test_what_a_page_has_compose_run_is_there():
    shown = [
        words.split()
        for page in sorted((DOCKER.parent / "docs").glob("*.md"))
        for words in re.findall(r"docker compose (?:exec|run --rm) (.*)", page.read_text())
    ]
    assert len(shown) > 4
    for service, *words in shown:
        assert service in SERVICES
        command = get_command(app)
        for word in words[words[:1] == ["evergrant"] :][: 2 * (service in OURS)]:
            if hasattr(command, "commands"):
                command = command.commands[word]


@pytest.mark.parametrize("role", OURS)
def test_every_role_is_a_command_of_ours(compose, role):
    command = get_command(app)
    assert compose["services"][role]["command"][0] in command.commands
