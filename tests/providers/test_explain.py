"""Why there is no refresh token, with the setting of Auth0 that mends it."""

from __future__ import annotations

import pytest

from tests.providers.conftest import a_connection

OFFLINE = {"access_type": {"value": "offline"}, "prompt": {"value": "consent"}}
CASES = {
    "google": (a_connection("google-oauth2"), "access_type=offline and prompt=consent"),
    "google, half done": (
        a_connection("google-oauth2", {"upstream_params": {"access_type": {"value": "offline"}}}),
        "ask for prompt=consent",
    ),
    "google, all done": (
        a_connection("google-oauth2", {"upstream_params": OFFLINE}),
        "a client of your own",
    ),
    "workspace": (a_connection("google-apps"), "access_type=offline and approval_prompt=force"),
    "entra": (a_connection("waad", {"scope": ["User.Read"]}), "does not ask for offline_access"),
    "entra, asked": (a_connection("waad", {"scope": ["offline_access"]}), "ext_refresh_token"),
    "oidc, text": (a_connection("oidc", {"scope": "openid email"}), "offline_access"),
    "x": (a_connection("twitter", {"protocol": "oauth2"}), "offline.access"),
    "dropbox": (a_connection("dropbox"), "token_access_type=offline"),
    "nothing known": (
        a_connection("oauth2", {"tokenURL": "https://api.imgur.com/oauth2/token"}),
        "Imgur gave no refresh token",
    ),
}


@pytest.mark.parametrize(("connection", "advice"), CASES.values(), ids=CASES)
def test_the_missing_setting_is_named(catalogue, connection, advice):
    found = catalogue.resolve(connection, has_refresh_token=True)
    assert advice in found.without_refresh_token
    assert "next login" in found.without_refresh_token


@pytest.mark.parametrize("strategy", ["facebook", "github", "samlp"])
def test_where_none_is_needed_nothing_is_said(catalogue, strategy):
    found = catalogue.resolve(a_connection(strategy), has_refresh_token=False)
    assert found.without_refresh_token == ""
