"""The image and the deployment, as far as they can be tried without a Docker engine.

What needs an engine (building the image, starting the services) is not run here.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DOCKER = Path(__file__).parents[2] / "docker"
OURS = ("migrate", "web", "worker", "scheduler", "flower")


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


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
            assert not secret or "/run/secrets/" in str(value), f"{name}: {key}"


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


def test_the_journal_survives_a_container(compose):
    """A tmpfs there would lose tokens that the provider has already rotated (I3)."""
    worker = compose["services"]["worker"]
    assert "worker-data:/var/lib/evergrant" in worker["volumes"]
    assert not any("/var/lib/evergrant" in path for path in worker["tmpfs"])


@pytest.mark.parametrize("role", OURS)
def test_every_role_is_a_command_of_ours(compose, role):
    from typer.main import get_command

    from worker.cli.app import app

    command = get_command(app)
    assert compose["services"][role]["command"][0] in command.commands
