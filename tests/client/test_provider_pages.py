"""The examples of docs/providers, run as they stand: a real Evergrant, the provider played."""

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from tests.api.conftest import KEY
from worker.providers import load_catalogue

PAGES = Path(__file__).parents[2] / "docs" / "providers"
CATALOGUE = load_catalogue({}, allow_loopback=False)
CALLED = [name for name in CATALOGUE.names() if CATALOGUE[name].call.url]


@pytest.fixture
def provider(site, monkeypatch):
    """Takes every request that is not for Evergrant."""
    asked = []
    send = httpx.HTTPTransport.handle_request

    def handle(transport, request):
        if request.url.port == site.port:
            return send(transport, request)
        asked.append(request)
        return httpx.Response(200, json={"name": "Ada"})

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    return asked


@pytest.mark.parametrize("name", CALLED)
def test_the_example_of_a_page_calls_the_providers_api(site, provider, monkeypatch, capsys, name):
    [example] = re.findall(
        r"^```python\n(.*?)^```", (PAGES / f"{name}.md").read_text(), re.MULTILINE | re.DOTALL
    )
    call = CATALOGUE[name].call
    user_id, connection = re.search(r'connection = "(.*)", "(.*)"', example).groups()
    site.grants.add(user_id=user_id, connection=connection, access_token="the-token")
    monkeypatch.setenv("EVERGRANT_URL", site.url)
    monkeypatch.setenv("EVERGRANT_API_KEY", KEY)
    exec(compile(example, name, "exec"), {"__name__": "__main__"})
    assert "Ada" in capsys.readouterr().out
    [request] = provider
    assert (request.method, request.url.host) == (call.method, urlsplit(call.url).hostname.lower())
    assert request.url.path == (urlsplit(call.url).path or "/")
    carried = [
        *request.headers.values(),
        *dict(parse_qsl(request.url.query.decode())).values(),
        *dict(parse_qsl(request.content.decode())).values(),
    ]
    assert sum("the-token" in value for value in carried) == 1
    for header, value in call.headers.items():
        assert request.headers[header] == value


def test_what_can_be_called_is_shown_on_its_page():
    shown = {path.stem for path in PAGES.glob("*.md") if "```python" in path.read_text()}
    assert shown == set(CALLED)
