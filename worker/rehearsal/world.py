"""The connections a stage opens with, and the `options` Auth0 would show for each.

Shapes: auth0-python 6.8.0, `connection_options_*`, and the recordings of
auth0/terraform-provider-auth0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .profiles import Profile
from .records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSpec:
    """A connection to open. `profile` says how its provider behaves."""

    name: str
    profile: str
    options: Mapping[str, object] = field(default_factory=dict)  # on top of the strategy's own
    top: Mapping[str, object] = field(default_factory=dict)  # top-level fields


CONNECTIONS: tuple[ConnectionSpec, ...] = (
    ConnectionSpec(name="google-oauth2", profile="google-oauth2"),
    ConnectionSpec(name="acme-workspace", profile="google-apps"),
    ConnectionSpec(name="acme-entra", profile="waad"),
    ConnectionSpec(name="windowslive", profile="windowslive"),
    ConnectionSpec(name="acme-bitbucket", profile="bitbucket"),
    ConnectionSpec(name="github", profile="github-app"),
    ConnectionSpec(name="facebook", profile="facebook"),
    ConnectionSpec(name="acme-tracker", profile="oauth2"),
    ConnectionSpec(name="acme-okta", profile="okta"),
)


def options_for(profile: Profile, url: str, client: Mapping[str, str]) -> Record:
    """`options` of a fresh connection: `url` is the provider's base, `client` its credentials."""
    own = _OWN.get(profile.strategy)
    return {**client, **(own(url, profile) if own else {})}


def _google(url: str, profile: Profile) -> Record:
    return {"email": True, "profile": True, "scope": ["email", "profile"]}


def _workspace(url: str, profile: Profile) -> Record:
    return {
        "domain": "acme.example",
        "tenant_domain": "acme.example",
        "domain_aliases": ["acme.example"],
        "api_enable_users": True,
        "handle_login_from_social": True,
        "scope": ["email", "profile"],
    }


def _entra(url: str, profile: Profile) -> Record:
    generation = (
        "azure-active-directory-v1.0"
        if profile.name in ("waad-v1", "office365")
        else "microsoft-identity-platform-v2.0"
    )
    return {
        "domain": "acme.onmicrosoft.com",
        "tenant_domain": "acme.onmicrosoft.com",
        "tenantId": "66666666-7777-4888-9999-000000000000",
        "identity_api": generation,
        "waad_protocol": "openid-connect",
        "use_wsfed": False,
        "useCommonEndpoint": False,
        "app_id": "https://graph.microsoft.com",
        "granted": True,
        "scope": profile.scope.split(),
        "ext_access_token": True,
        "ext_refresh_token": True,
        "ext_expires_in": True,
    }


def _windowslive(url: str, profile: Profile) -> Record:
    return {"strategy_version": 2, "scope": ["wl.signin", "graph_user", "offline_access"]}


def _twitter(url: str, profile: Profile) -> Record:
    return {"protocol": "oauth1" if profile.grant == "none" else "oauth2"}


def _scoped(*scopes: str) -> Callable[[str, Profile], Record]:
    return lambda url, profile: {"scope": list(scopes)}


def _custom(url: str, profile: Profile) -> Record:
    return {
        "authorizationURL": f"{url}/authorize",
        "tokenURL": f"{url}/token",
        "scope": profile.scope.split(),
        "customHeaders": {"X-Rehearsal": "1"},
        "pkce_enabled": True,
        "useOauthSpecScope": True,
        "scripts": {"fetchUserProfile": "function(accessToken, ctx, cb) { cb(null, {}); }"},
    }


def _oidc(url: str, profile: Profile) -> Record:
    return {
        "type": "back_channel",
        "issuer": url,
        "domain": url.partition("://")[2],
        "discovery_url": f"{url}/.well-known/openid-configuration",
        "token_endpoint": f"{url}/token",
        "token_endpoint_auth_method": "client_secret_post",
        "oidc_metadata": {
            "issuer": url,
            "token_endpoint": f"{url}/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
        },
        "scope": "openid profile email offline_access",
    }


_OWN: Mapping[str, Callable[[str, Profile], Record]] = {
    "google-oauth2": _google,
    "google-apps": _workspace,
    "waad": _entra,
    "sharepoint": _entra,
    "windowslive": _windowslive,
    "bitbucket": _scoped("account", "repository"),
    "github": _scoped("read_user"),
    "facebook": _scoped("email", "public_profile"),
    "twitter": _twitter,
    "oauth2": _custom,
    "oidc": _oidc,
    "okta": _oidc,
    "auth0-oidc": _oidc,
}
