"""Which entry serves a grant: strategy, then variant, then the host of the token URL."""

from __future__ import annotations

import pytest

from tests.providers.conftest import a_connection

ENTRA_V1 = {"identity_api": "azure-active-directory-v1.0"}
ENTRA_V2 = {"identity_api": "microsoft-identity-platform-v2.0"}


def at(url: str) -> dict[str, object]:
    return {"tokenURL": url}


# strategy, options, what came with the grant → entry
CASES = {
    "google": ("google-oauth2", {}, {}, "google-oauth2"),
    "entra v2": ("waad", ENTRA_V2, {}, "waad"),
    "entra v1": ("waad", ENTRA_V1, {}, "waad-v1"),
    "entra, version not told": ("waad", {}, {}, "waad"),
    "github oauth app": ("github", {}, {"has_refresh_token": False}, "github"),
    "github app": ("github", {}, {"has_refresh_token": True}, "github-app"),
    "github app by prefix": (
        "github",
        {},
        {"has_refresh_token": False, "access_token_prefix": "ghu_", "expires_told": True},
        "github-app",
    ),
    "github app without expiry": (
        "github",
        {},
        {"has_refresh_token": False, "access_token_prefix": "ghu_"},
        "github",
    ),
    "slack rotating": ("slack", {}, {}, "slack"),
    "slack for ever": ("slack", {}, {"has_refresh_token": False}, "slack-permanent"),
    "slack, which ends": (
        "slack",
        {},
        {"has_refresh_token": False, "expires_told": True},
        "slack",
    ),
    "dropbox": ("dropbox", {}, {}, "dropbox"),
    "dropbox of old": ("dropbox", {}, {"has_refresh_token": False}, "dropbox-permanent"),
    "dropbox without offline": (
        "dropbox",
        {},
        {"has_refresh_token": False, "expires_told": True},
        "dropbox",
    ),
    "x oauth 1": ("twitter", {"protocol": "oauth1"}, {}, "twitter"),
    "x oauth 2": ("twitter", {"protocol": "oauth2"}, {}, "twitter-oauth2"),
    "x, protocol not told, with a refresh token": ("twitter", {}, {}, "twitter-oauth2"),
    "x, protocol not told, without": (
        "twitter",
        {},
        {"has_refresh_token": False},
        "twitter",
    ),
    "x oauth 1, whatever stands beside": (
        "twitter",
        {"protocol": "oauth1"},
        {"has_refresh_token": True},
        "twitter",
    ),
    "okta as the log schemas spell it": ("oktawic", {}, {}, "okta"),
    "a database": ("auth0", {}, {}, "database"),
    "gone from Auth0's list": ("renren", {}, {}, "gone"),
    "shopify offline": ("shopify", {}, {}, "shopify"),
    "shopify online": (
        "shopify",
        {},
        {"has_refresh_token": False, "expires_told": True},
        "shopify-online",
    ),
    "shopify of old": ("shopify", {}, {"has_refresh_token": False}, "shopify-permanent"),
    "notion": ("notion", {}, {}, "notion"),
    "notion without refresh": ("notion", {}, {"has_refresh_token": False}, "notion-permanent"),
    "linkedin partner": ("linkedin", {}, {}, "linkedin"),
    "linkedin": ("linkedin", {}, {"has_refresh_token": False}, "linkedin-basic"),
    "sharepoint by acs": ("sharepoint", {}, {}, "sharepoint"),
    "sharepoint by entra": (
        "sharepoint",
        at("https://login.microsoftonline.com/t/oauth2/v2.0/token"),
        {},
        "sharepoint-entra",
    ),
    "event schema's spelling": ("untapped", {}, {}, "untappd"),
    "marketplace": ("oauth2", at("https://accounts.spotify.com/api/token"), {}, "spotify"),
    "marketplace, host in capitals": (
        "oauth2",
        at("https://Accounts.Spotify.com/api/token"),
        {},
        "spotify",
    ),
    "zoho in europe": ("oauth2", at("https://accounts.zoho.eu/oauth/v2/token"), {}, "zoho"),
    "okta behind oidc": (
        "oidc",
        {"oidc_metadata": {"token_endpoint": "https://acme.okta.com/oauth2/v1/token"}},
        {},
        "okta",
    ),
    "keycloak by its path": (
        "oidc",
        {"token_endpoint": "https://id.acme.example/realms/a/protocol/openid-connect/token"},
        {},
        "keycloak",
    ),
    "entra behind oauth2": (
        "oauth2",
        at("https://login.microsoftonline.com/t/oauth2/v2.0/token"),
        {},
        "entra-custom",
    ),
    "github app behind oauth2": (
        "oauth2",
        at("https://github.com/login/oauth/access_token"),
        {},
        "github-app",
    ),
    "x behind oauth2": ("oauth2", at("https://api.x.com/2/oauth2/token"), {}, "twitter-oauth2"),
    "a host that only looks alike": (
        "oauth2",
        at("https://accounts.spotify.com.evil.example/api/token"),
        {},
        "oauth2",
    ),
    "somebody's own server": ("oauth2", at("https://id.tracker.example/t"), {}, "oauth2"),
    "somebody's own oidc": ("oidc", {"token_endpoint": "https://id.t.example/t"}, {}, "oidc"),
    "a strategy of tomorrow": ("brandnew", at("https://id.new.example/t"), {}, "oauth2"),
    "a strategy of tomorrow at a known host": (
        "zoom",
        at("https://zoom.us/oauth/token"),
        {},
        "zoom",
    ),
}


@pytest.mark.parametrize(("strategy", "options", "signs", "entry"), CASES.values(), ids=CASES)
def test_the_entry_of_a_grant(catalogue, strategy, options, signs, entry):
    connection = a_connection(strategy, options)
    found = catalogue.resolve(connection, **{"has_refresh_token": True, **signs})
    assert found.name == entry


def test_the_operator_may_name_the_entry_of_a_connection(catalogue):
    connection = a_connection("oauth2", overrides={"provider": "gitlab"})
    assert catalogue.resolve(connection, has_refresh_token=True).name == "gitlab"


def test_an_unknown_server_is_treated_with_the_greatest_care(catalogue):
    connection = a_connection("oauth2", at("https://id.tracker.example/token"))
    assert catalogue.resolve(connection, has_refresh_token=True).rotation == "F"


CLASSES = {
    "google-oauth2": ("N", 0),
    "waad": ("M", 0),
    "bitbucket": ("G", 600),
    "atlassian": ("G", 600),
    "shopify": ("G", 30 * 86400),
    "gitlab": ("S", 0),
    "twitter-oauth2": ("F", 0),
    "salesforce": ("F", 0),
    "okta": ("F", 0),
    "facebook": ("N", 0),
    "office365": ("F", 0),  # which endpoint an old connection needs is not established
    "notion": ("F", 0),
}


@pytest.mark.parametrize(("name", "expected"), CLASSES.items(), ids=CLASSES)
def test_the_class_of_an_entry(catalogue, name, expected):
    provider = catalogue.entry(name, a_connection(name))
    assert (provider.rotation, provider.grace_seconds) == expected


def test_what_is_spent_is_said(catalogue):
    def spends(name: str) -> str:
        return catalogue.entry(name, a_connection(name)).spends

    assert [spends("google-oauth2"), spends("facebook"), spends("github")] == ["rt", "at", ""]
