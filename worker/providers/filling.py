"""What a placeholder of a template stands for, on one connection.

Looked up in this order: the operator's `fill` for the connection, our own names below, the
connection's options (dotted paths), the entry's `fill`.

    client_id              of the connection
    token_url, token_host  as the connection has it (`tokenURL`, `token_endpoint`, OIDC metadata)
    token_dir              the same without its last path segment
    auth0_domain           of the tenant
    login_callback         the redirect URI of its logins
    scope                  as granted, else as the connection asks for
    scope_offline          with offline_access
    scope_of_one_resource  Microsoft v2: one resource a request, and offline_access
    granted_scope_of_one_resource   the same of what an answer named, not of what the options ask
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from worker.domain.exchange import ConnectionConfig
from worker.providers import paths
from worker.providers.templates import Lookup
from worker.providers.vocabulary import Entry

# Not of any resource: they go with every one.
OPENID_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})


def lookup_for(
    entry: Entry,
    connection: ConnectionConfig,
    *,
    scope: str | None = None,
    auth0_domain: str = "",
    more: Mapping[str, str] | None = None,
) -> Lookup:
    """A lookup for `templates`. `more` holds what only one request knows, a token for instance."""
    chosen = connection.overrides.get("fill")
    chosen = chosen if isinstance(chosen, Mapping) else {}

    def lookup(name: str) -> str | None:
        if value := (more or {}).get(name) or _as_text(chosen.get(name)):
            return value
        if name == "granted_scope_of_one_resource":
            return of_one_resource(scope or "")
        if name in {"scope", "scope_offline", "scope_of_one_resource"}:
            return _scope(name, scope or asked_scope(connection))
        return (
            _our_own(name, connection, auth0_domain)
            or _as_text(option(connection, name))
            or entry.fill.get(name)
        )

    return lookup


def option(connection: ConnectionConfig, path: str) -> object:
    """A connection option by dotted path; None where there is none."""
    return paths.first_at(connection.options, [path])


def token_url(connection: ConnectionConfig) -> str:
    """The token endpoint that the connection itself names; "" for Auth0's own strategies."""
    names = ["tokenURL", "token_endpoint", "oidc_metadata.token_endpoint"]
    return paths.text_at(connection.options, names) or ""


def token_address(connection: ConnectionConfig) -> SplitResult:
    """The same in parts; all of them empty where there is none, or nonsense."""
    try:
        return urlsplit(token_url(connection))
    except ValueError:
        return urlsplit("")


def asked_scope(connection: ConnectionConfig) -> str:
    """The scopes the connection asks for, separated by spaces."""
    asked = option(connection, "scope")
    parts = asked if isinstance(asked, list) else str(asked or "").replace(",", " ").split()
    return " ".join(str(part) for part in parts)


def of_one_resource(scope: str) -> str:
    """The scopes of the first resource in `scope`, and offline_access; "" if it names none.

    Microsoft v2 answers AADSTS28002 or 70011 when scopes of two resources are asked at once;
    without a scope it renews for the resource granted first.
    Source: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow
    """
    scopes = scope.split()
    of_resources = [s for s in scopes if s not in OPENID_SCOPES]
    if not of_resources:
        return ""
    first = _resource(of_resources[0])
    kept = [s for s in scopes if s in OPENID_SCOPES or _resource(s) == first]
    return " ".join(dict.fromkeys([*kept, "offline_access"]))


def _resource(scope: str) -> str:
    """ "https://graph.microsoft.com" is what a bare name such as User.Read belongs to."""
    resource = scope.rpartition("/")[0].rstrip("/")
    return "" if resource == "https://graph.microsoft.com" else resource


def _scope(name: str, scope: str) -> str:
    if name == "scope_of_one_resource":
        return of_one_resource(scope)
    if name == "scope_offline" and scope and "offline_access" not in scope.split():
        return f"{scope} offline_access"
    return scope


def _our_own(name: str, connection: ConnectionConfig, auth0_domain: str) -> str | None:
    url = token_url(connection)
    names = {
        "client_id": connection.client_id,
        "token_url": url,
        "token_host": token_address(connection).netloc,
        "token_dir": url.rstrip("/").rpartition("/")[0],
        "auth0_domain": auth0_domain,
        "login_callback": f"https://{auth0_domain}/login/callback" if auth0_domain else "",
    }
    return names.get(name)


def _as_text(value: object) -> str | None:
    if value is True:
        return "true"
    return str(value) if isinstance(value, str | int) and value else None
