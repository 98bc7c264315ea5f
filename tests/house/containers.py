"""docs/deploying.md followed in a directory, and compose's services as processes there.

A container is an environment, a few files and a user. Here its root is a directory of its own:
what compose mounts lies in it under the same path, and settings name it there. What differs from a
container is said in `Container`; images, networks and read-only roots are left to Docker.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "evergrant:local"]
UID = 10001
_PATHS = re.compile(r"(?<![\w.])/(?=run/|etc/evergrant|var/lib/evergrant)")
_BIN = Path(sys.executable).parent


def image_environment() -> dict[str, str]:
    told = re.search(r"^ENV (.*?[^\\])$", (ROOT / "docker/Dockerfile").read_text(), re.M | re.S)
    assert told
    return dict(re.findall(r"([A-Z_]+)=(\S+)", told[1]))


@cache
def can_be_them() -> bool:
    """Whether a process of uid 10001 can be started here: we are root, and it may read Python."""
    if os.geteuid() != 0:
        return False
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import worker.cli.run"], user=UID, group=UID, check=False,
            cwd="/", capture_output=True,
        )  # fmt: skip
    except PermissionError:
        return False
    return tried.returncode == 0


def follow_the_page(place: Path, broker: str = "rabbitmq") -> Path:
    """Run its first block as it stands; returns the `docker/` directory it leaves."""
    page = (ROOT / "docs/deploying.md").read_text()
    block = re.search(r"^```sh\n(.*?)^```", page, re.M | re.S)
    assert block
    assert "docker compose" not in block[1]
    shutil.copytree(ROOT / "docker", place / "docker", ignore=shutil.ignore_patterns("secrets"))
    tools = place / "bin"
    tools.mkdir()
    if not can_be_them():  # then whoever we are stands for uid 10001
        (tools / "chown").write_text("#!/bin/sh\n")
        (tools / "chown").chmod(0o755)
    subprocess.run(
        ["sh", "-euc", block[1].replace("secrets.sh rabbitmq", f"secrets.sh {broker}")],
        cwd=place, input="the-client-id\nthe-client-secret\n", text=True, check=True,
        env={"PATH": f"{tools}:{_BIN}:{os.environ['PATH']}"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return place / "docker"


@dataclass
class Container:
    """One service. Besides its root, only addresses differ: `addresses` and `ports` say how."""

    service: str
    root: Path
    environment: dict[str, str]

    @classmethod
    def of(cls, service: str, docker: Path, addresses: dict[str, str], **ports: int) -> Container:
        told, root = SERVICES[service], docker.parent / "containers" / service
        made = cls(service, root, {})
        for mount in told.get("volumes", []):
            source, target, *_ = mount.split(":")
            made._mount(docker / source if source.startswith(".") else None, target)
        for mount in told["tmpfs"]:
            if not mount.startswith("/tmp"):
                made._mount(None, mount.split(":")[0])
        for secret in told.get("secrets", []):
            file = docker / COMPOSE["secrets"][secret]["file"]
            made._write(f"/run/secrets/{secret}", file, addresses)
        environment = {**image_environment(), **told["environment"], **_told(ports)}
        made.environment = {k: made.inside(v) for k, v in environment.items()}
        return made

    def command(self, *words: str) -> dict[str, Any]:
        """As `subprocess` takes it; compose's command by default."""
        them = {"user": UID, "group": UID, "extra_groups": []} if can_be_them() else {}
        words = words or tuple(SERVICES[self.service]["command"])
        without_path = {k: v for k, v in self.environment.items() if k != "PATH"}
        return {
            "args": [sys.executable, "-m", "worker.cli", *words],
            "env": {"PATH": os.environ["PATH"], **without_path},
            "cwd": self.root,
            **them,
        }

    def secrets(self) -> list[Path]:
        return sorted((self.root / "run/secrets").iterdir())

    def inside(self, text: str) -> str:
        """Paths of the container as they are named here."""
        return _PATHS.sub(f"{self.root}/", text)

    def _mount(self, source: Path | None, target: str) -> None:
        place = self.root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source is None:
            place.mkdir(mode=0o700)
            _like(place, os.stat_result((0, 0, 0, 0, UID, UID, 0, 0, 0, 0)))
        elif source.is_dir():
            place.symlink_to(source)
        else:
            self._write(target, source, {})

    def _write(self, target: str, source: Path, addresses: dict[str, str]) -> None:
        """The same bytes, owner and mode, but for paths and addresses."""
        place, text = self.root / target.lstrip("/"), self.inside(source.read_text())
        for theirs, here in addresses.items():
            text = text.replace(theirs, here)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(source.stat().st_mode)
        _like(place, source.stat())


def _told(ports: dict[str, int]) -> dict[str, str]:
    return {f"EVERGRANT_{name.upper()}": str(port) for name, port in ports.items()}


def _like(place: Path, owner: os.stat_result) -> None:
    if can_be_them():
        os.chown(place, owner.st_uid, owner.st_gid)
