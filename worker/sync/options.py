"""A connection as Auth0 tells it, cut down to what renewing needs.

`options` may hold client secrets, scripts, certificates and admin tokens. Only names on the list
below are kept in the open; the client secret and custom headers travel as `Secret`s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from worker.auth0 import Connection
from worker.auth0.answers import secret, text
from worker.domain.exchange import ConnectionConfig
from worker.domain.secret import Secret

_KEPT = frozenset(
    {
        # every strategy
        "scope", "freeform_scopes", "upstream_params", "set_user_root_attributes", "protocol",
        # oauth2
        "useOauthSpecScope", "pkce_enabled", "authParamsMap",
        # waad, windowslive
        "tenantId", "identity_api", "waad_protocol", "use_wsfed", "useCommonEndpoint", "app_id",
        "granted", "strategy_version", "ext_access_token", "ext_refresh_token", "ext_expires_in",
        # google-apps
        "domain_aliases", "handle_login_from_social", "api_enable_users", "map_user_id_to_id",
        # oidc, okta
        "issuer", "type", "token_endpoint_auth_method", "token_endpoint_auth_signing_alg",
        "dpop_signing_alg", "oidc_metadata",
        # apple, shopify and other short names a template may ask for
        "team_id", "kid", "shop", "realm", "subdomain", "region",
    }
)  # fmt: skip
_KEPT_METADATA = frozenset(
    {
        "issuer", "token_endpoint", "revocation_endpoint", "grant_types_supported",
        "token_endpoint_auth_methods_supported", "dpop_signing_alg_values_supported",
    }
)  # fmt: skip
# addresses and hosts under whatever name a strategy gives them: tokenURL, community_base_url, …
_ADDRESS = re.compile(r"(url|uri|endpoint|domain|host)$", re.IGNORECASE)
_LONGEST = 2000  # characters of one kept text


def config_of(tenant: str, connection: Connection, *, now: datetime) -> ConnectionConfig:
    """Without the operator's overrides, which the store lays over it when it is read again."""
    options = connection.options or {}
    return ConnectionConfig(
        tenant=tenant,
        name=connection.name,
        id=connection.id,
        strategy=connection.strategy,
        client_id=text(options.get("client_id")),
        client_secret=_client_secret(connection.strategy, options),
        options=kept_options(options),
        headers=_headers(options.get("customHeaders")),
        overrides={},
        fetched_at=now,
        approved_host=None,
        stopped=None,
    )


def _client_secret(strategy: str, options: Mapping[str, Any]) -> Secret | None:
    """Apple's is the .p8 key that signs a secret for each request; Auth0 calls it app_secret."""
    own = secret(options.get("app_secret")) if strategy == "apple" else None
    return own or secret(options.get("client_secret"))


def kept_options(options: Mapping[str, Any]) -> dict[str, object]:
    """Known names and addresses, of plain values; no secret is among them."""
    kept: dict[str, object] = {}
    for name, value in options.items():
        if name == "oidc_metadata" and isinstance(value, Mapping):
            kept[name] = {n: v for n, v in value.items() if n in _KEPT_METADATA and _plain(v)}
        elif (name in _KEPT or _ADDRESS.search(name)) and _plain(value):
            kept[name] = value
    return kept


def _plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST and "@" not in value.partition("://")[2].partition("/")[0]
    if isinstance(value, list):
        return len(value) <= 200 and all(isinstance(item, str) for item in value)
    if isinstance(value, Mapping):  # upstream_params: {"access_type": {"value": "offline"}}
        return len(str(value)) <= _LONGEST
    return isinstance(value, bool | int)


def _headers(value: object) -> dict[str, Secret]:
    if not isinstance(value, Mapping):
        return {}
    pairs = ((name, secret(content)) for name, content in value.items())
    return {str(name): content for name, content in pairs if content is not None}
