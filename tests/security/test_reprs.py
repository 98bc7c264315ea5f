"""No object of ours shows a secret when a debugger, a traceback or a log prints it (I15)."""

from __future__ import annotations

import base64
import gc
import json
from pathlib import Path

import pytest

from tests.canary import canary, hunt_bytes
from worker import settings as _settings
from worker.bootstrap.first_start import first_start
from worker.bootstrap.working import Worker
from worker.cli.asgi import build_web
from worker.domain.ports import ApiToken
from worker.domain.secret import Secret

NAMES = ("client-secret", "logs", "events", "action", "own-client-secret", "webhook")


@pytest.fixture
def birds():
    made = {name: canary(name, "~=") for name in NAMES}
    return made | {"action": f"whsec_{base64.b64encode(made['action'].encode()).decode()}"}


@pytest.fixture
def settings(tmp_path, birds):
    (tmp_path / "evergrant.toml").write_text(f"""
[tenants.acme]
domain = "acme.eu.auth0.com"
client_id = "abc"
client_secret = "{birds["client-secret"]}"
logs_authorization = "{birds["logs"]}"
events_bearer = "{birds["events"]}"
actions_secret = "{birds["action"]}"

[tenants.acme.connections.google-oauth2]
client_secret = "{birds["own-client-secret"]}"

[[notices]]
url = "https://app.example/hook"
secret = "whsec_{base64.b64encode(birds["webhook"].encode()).decode()}"
""")
    environment = {
        "EVERGRANT_DATA_DIR": str(tmp_path / "data"),
        "EVERGRANT_BROKER_URL": "memory://",
    }
    made = _settings.load(environment, directory=tmp_path)
    made.data_dir.mkdir()
    first_start(made)
    return made


def keys_of(settings):
    document = json.loads(Path(settings.keyring).read_text())
    return [base64.b64decode(key["key"]) for key in document["keys"]]


@pytest.mark.parametrize("build", [Worker, build_web], ids=["worker", "web"])
def test_nothing_of_a_running_process_shows_a_secret(settings, birds, build):
    held = build(settings)
    token = ApiToken(token=Secret(birds["events"]), expires_at=None, scope="")
    gc.collect()
    ours = [o for o in gc.get_objects() if str(type(o).__module__).startswith("worker.")]
    assert len(ours) > 200
    assert any(one is token for one in ours)
    shown = "\n".join(f"{one!r} {one!s}" for one in ours).encode()
    assert hunt_bytes([*birds.values(), *keys_of(settings)], shown) == []
    if isinstance(held, Worker):
        held.close()


def test_such_a_hunt_would_find_one(birds):
    assert hunt_bytes(birds.values(), repr({"client_secret": birds["logs"]}).encode())
