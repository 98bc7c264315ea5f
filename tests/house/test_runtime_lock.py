"""What users install is requirements.lock: all that a running product imports has to be in it.

The tests run on the lock with the development tools, where a dependency that nobody asked for may
come along with one of them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPORTING = """
import importlib, json, sys

class Missing:
    absent = set(json.loads(sys.argv[1]))
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""
BROKERS = ["kombu.transport.redis", "kombu.transport.pyamqp", "kombu.transport.filesystem"]
ROLES = {
    "worker and scheduler": ["worker.bootstrap.working", "worker.queue.app", "celery.bin.worker"],
    "web": ["worker.cli.asgi", "uvicorn", "uvicorn.protocols.http.httptools_impl"],
    "flower": ["flower.app", "flower.command"],
    "commands": ["worker.cli.doctor", "worker.cli.rehearsal", "worker.cli.demo"],
    "the apps' client": ["worker.client"],
}


def locked() -> set[str]:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return {normal(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("role", ROLES)
def test_every_role_starts_with_nothing_but_the_lock_that_users_install(role: str) -> None:
    there = locked() | {"evergrant"}
    absent = [
        module
        for module, owners in packages_distributions().items()
        if there.isdisjoint(map(normal, owners))
    ]
    assert "pytest" in absent
    told = subprocess.run(
        [sys.executable, "-c", IMPORTING, json.dumps(absent), *ROLES[role], *BROKERS],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert told.returncode == 0, told.stderr[-2000:]
