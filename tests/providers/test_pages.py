"""The pages of the providers are made from the catalogue, and are what it says now."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from tests.providers.conftest import NOW, a_connection
from worker.domain.secret import Secret
from worker.providers import load_catalogue
from worker.providers.complaints import Origin
from worker.providers.pages import pages
from worker.providers.vocabulary import Entry

HERE = Path(__file__).parents[2] / "docs" / "providers"


def test_the_pages_are_up_to_date(catalogue):
    """`python -m worker.providers.pages docs/providers` writes them anew."""
    written = {path.name: path.read_text(encoding="utf-8") for path in HERE.glob("*.md")}
    expected = pages(catalogue)
    assert sorted(written) == sorted(expected)
    assert [name for name in expected if written[name] != expected[name]] == []


def test_a_page_tells_how_to_set_up_how_it_renews_and_where_that_is_known_from(catalogue):
    page = pages(catalogue)["google-oauth2.md"]
    for told in ("https://oauth2.googleapis.com/token", "prompt=consent", "## Sources", "180d"):
        assert told in page


def test_a_dead_provider_says_so_first(catalogue):
    assert "**Ended on 2026-04-02.**" in pages(catalogue)["sharepoint.md"].partition("##")[0]


GUIDE = Path(__file__).parents[2] / "docs" / "catalogue.md"


def documented(marker: str) -> dict[str, Any]:
    """The TOML example that holds `marker`."""
    found = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return tomllib.loads(next(text for text in found if marker in text))


def test_the_documented_server_of_ones_own_works():
    overrides = documented("[providers.tracker]")["providers"]
    catalogue = load_catalogue(overrides, allow_loopback=False)
    connection = a_connection("oauth2", {"tokenURL": "https://id.tracker.example/oauth/token"})
    provider = catalogue.resolve(connection, has_refresh_token=True)
    assert (provider.name, provider.rotation, provider.grace_seconds) == ("tracker", "G", 60)
    request = provider.revocation(connection, access_token=None, refresh_token=Secret("r"), now=NOW)
    assert request is not None
    assert request.url == "https://id.tracker.example/oauth/revoke"


def test_the_documented_connection_works(catalogue):
    overrides = documented("[tenants.acme")["tenants"]["acme"]["connections"]["crm"]
    own = {key: value for key, value in overrides.items() if key != "private_key"}  # a file's
    catalogue.check_connection("crm", own, Origin(name="evergrant.toml"))
    provider = catalogue.resolve(
        a_connection("salesforce", overrides=overrides), has_refresh_token=True
    )
    assert (provider.rotation, provider.not_renewable) == ("N", None)


def test_the_guide_names_every_key():
    text = GUIDE.read_text(encoding="utf-8")
    assert [name for name in Entry.__struct_fields__ if f"`{name}`" not in text] == []
