"""What the web process is told of the catalogue."""

from __future__ import annotations

from datetime import timedelta

import httpx
import jsonschema

from worker import settings as _settings
from worker.bootstrap.first_start import first_start
from worker.cli.asgi import build_web, outlives_renewal
from worker.providers import load_catalogue


def test_no_cache_keeps_a_token_for_longer_than_it_outlives_its_renewal():
    """GitHub Apps and GitLab end the old one at once, Atlassian after ten minutes."""
    told = outlives_renewal(load_catalogue({}, allow_loopback=False))
    at_once, later = timedelta(0), timedelta(minutes=10)
    assert told == {"github-app": at_once, "gitlab": at_once, "atlassian": later}


ACME = """
[tenants.acme]
domain = "acme.eu.auth0.com"
client_id = "abc"
client_secret = "x"
logs_authorization = "known"
"""
LOGS = "/hooks/auth0/acme/logs"


async def test_what_the_other_doors_answer_is_described(tmp_path):
    (tmp_path / "evergrant.toml").write_text(ACME)
    settings = _settings.load({"EVERGRANT_BROKER_URL": "memory://"}, directory=tmp_path)
    first_start(settings)
    transport = httpx.ASGITransport(build_web(settings))
    known, large = {"Authorization": "known"}, b"x" * (17 * 1024 * 1024)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
        for method, path, sent in (
            *(("GET", f"/{name}", {}) for name in ("healthz", "readyz", "metrics", "status")),
            ("POST", LOGS, {"headers": known, "content": b"[]"}),
            ("POST", LOGS, {"content": b"[]"}),
            ("POST", LOGS, {"headers": known, "content": large}),
        ):
            answer = await http.request(method, path, **sent)
            described = paths[path.replace("acme", "{tenant}")][method.lower()]["responses"]
            assert "default" not in described
            content = described[str(answer.status_code)]["content"]
            kind = answer.headers["content-type"].partition(";")[0]
            assert list(content) == [kind]
            told = answer.text if kind == "text/plain" else answer.json()
            jsonschema.validate(told, content[kind]["schema"])
