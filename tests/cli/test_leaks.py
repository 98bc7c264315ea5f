"""A leak, answered by the whole product: stopped, revoked at the providers, reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx
import pytest

from tests.cli.conftest import TENANT, Running


def evergrant(running: Running, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", *words],
        cwd=running.directory,
        env={**os.environ, **running.environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


def read(running: Running, connection: str, user_id: str) -> httpx.Response:
    quoted = user_id.replace("|", "%7C")
    return httpx.get(
        f"{running.product.url}/v1/{TENANT}/users/{quoted}/tokens/{connection}",
        headers={"Authorization": f"Bearer {running.product.api_key}"},
        trust_env=False,
        timeout=30,
    )


@pytest.fixture
def leaked(embedded: Running, request: pytest.FixtureRequest) -> dict[str, str]:
    """Somebody new at each provider, whose token an app has read: connection → user id."""
    users = {c: embedded.login(c, request.node.name) for c in ("google-oauth2", "acme-bitbucket")}
    for connection, user_id in users.items():
        embedded.wait_for(lambda c=connection, u=user_id: read(embedded, c, u).status_code == 200)
    return users


def test_a_leak_is_stopped_revoked_and_reported(embedded: Running, leaked: dict[str, str]) -> None:
    """Google takes the consent back; Bitbucket cannot be asked, and nothing else is claimed."""
    before = embedded.stage.ledger()["total"]["revoked_by_us"]
    told = {}
    for connection, user_id in leaked.items():
        code, output = evergrant(embedded, "compromise", "--user", user_id, "--yes", "--json")
        [told[connection]] = json.loads(output)["report"]["lines"]
        assert code == (0 if connection == "google-oauth2" else 1)
        assert read(embedded, connection, user_id).status_code == 410
    assert told["google-oauth2"]["outcome"] == "revoked"
    assert told["acme-bitbucket"]["outcome"] == "not_offered"
    assert "Bitbucket" in told["acme-bitbucket"]["by_hand"]
    assert embedded.stage.ledger()["total"]["revoked_by_us"] == before + 1
    code, output = evergrant(embedded, "erasure", "report", "--since", "10m")
    assert code == 0
    assert "not_offered" in output


def test_leaked_access_tokens_are_replaced_and_the_consents_kept(
    embedded: Running, leaked: dict[str, str]
) -> None:
    user_id = leaked["google-oauth2"]
    old = read(embedded, "google-oauth2", user_id).json()["access_token"]
    code, output = evergrant(
        embedded, "compromise", "--user", user_id, "--since", "10m", "--replace", "--yes", "--json"
    )
    [line] = json.loads(output)["report"]["lines"]
    assert (code, line["outcome"]) == (0, "replaced")
    assert read(embedded, "google-oauth2", user_id).json()["access_token"] != old
