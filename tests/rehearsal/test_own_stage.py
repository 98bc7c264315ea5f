"""A customer's own rehearsal: providers of their own, in a file of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rehearsal.conftest import Start, identity, refresh
from worker.rehearsal import ConnectionSpec, config_of, load_profiles

OWN = """
[acme]
like = "oauth2"
entry = "oauth2"
client_auth = ["basic"]
access_lifetime_s = 42

[acme.errors.dead]
status = 418
body = { error = "teapot" }
"""


def test_a_provider_of_ones_own_is_a_table_of_ones_own(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "profiles.toml"
    path.write_text(OWN)
    stage = start(
        profiles=load_profiles(path), connections=[ConnectionSpec(name="own", profile="acme")]
    )
    held = identity(stage, stage.login("own", "rosa")).refresh_token
    assert refresh(stage, "own", held).json()["expires_in"] == 42
    refused = refresh(stage, "own", held)
    assert (refused.status_code, refused.json()) == (418, {"error": "teapot"})
    connection = config_of(stage.stage)["tenants"]["rehearsal"]["connections"]["own"]
    assert connection["provider"] == "oauth2"


@pytest.mark.parametrize(
    ("text", "says"),
    [('[a]\nlike = "nobody"', "no profile nobody"), ('[a]\nlike = "box"\nx = 1', "unknown key x")],
)
def test_a_mistake_in_a_profile_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "profiles.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        load_profiles(path)
