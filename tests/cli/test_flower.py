"""`evergrant flower`: each provider's tasks apart, nothing secret, nothing to press."""

import os
import subprocess
import sys

import httpx
import pytest

from tests.canary import hunt_bytes
from tests.servers import free_port

COLUMNS = {"draw": 1, "start": 0, "length": 100, "search[value]": "", "order[0][column]": 0,
           "order[0][dir]": "asc", "columns[0][data]": "name"}  # fmt: skip


@pytest.fixture
def flower(embedded):
    """Beside the running product, on loopback."""
    port = free_port()
    environment = {
        **os.environ,
        **embedded.environment,
        "EVERGRANT_FLOWER_PORT": str(port),
        "EVERGRANT_FLOWER_AUTH": "ops:a-long-password",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "flower"],
        env=environment,
        cwd=embedded.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    http = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", auth=("ops", "a-long-password"), trust_env=False
    )

    def up():
        assert process.poll() is None, process.stdout.read()
        try:
            return http.get("/healthcheck").status_code == 200
        except httpx.TransportError:
            return False

    embedded.wait_for(up)
    yield http
    http.close()
    process.terminate()
    process.wait(20)


def test_flower_shows_tasks_per_provider_and_can_be_looked_at_only(embedded, flower):
    def names():
        rows = flower.get("/tasks/datatable", params=COLUMNS).json()["data"]
        return {row["name"] for row in rows}

    embedded.wait_for(lambda: {"renew.google-oauth2", "renew.bitbucket"} <= names())
    everything = b"".join(
        flower.get(page, params=COLUMNS if "datatable" in page else None).content
        for page in ("/tasks", "/tasks/datatable", "/workers", "/broker", "/metrics", "/api/tasks")
    )
    assert hunt_bytes(embedded.secrets(), everything) == []
    assert b"renew.google-oauth2" in everything
    for operation in ("/api/task/send-task/renew.google-oauth2", "/api/worker/shutdown/x"):
        assert flower.post(operation, json={"args": []}).status_code == 403
    assert flower.get("/tasks", auth=None).status_code == 401
    assert flower.get("/api/tasks", auth=None).status_code == 401


def test_no_token_lies_anywhere_in_the_clear(embedded, flower):
    """Store, queue, spool, journal, metrics and logs of a product that has renewed for a while."""
    embedded.wait_for_renewals(2)
    assert embedded.leaks() == []
