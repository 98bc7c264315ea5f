"""Why a connection cannot be renewed, as a sentence with the advice that mends it."""

from __future__ import annotations

from worker.domain.errors import ConfigurationError
from worker.domain.exchange import ConnectionConfig
from worker.providers import asking, client_auth
from worker.providers.conditions import GrantSigns, holds
from worker.providers.filling import option
from worker.providers.vocabulary import Entry
from worker.providers.wire import Surroundings

_NOTHING_KNOWN = GrantSigns()


def refusal(entry: Entry, connection: ConnectionConfig, around: Surroundings) -> str | None:
    """The first reason that holds; None: it can be renewed."""
    return (
        _dead(entry)
        or _of_the_entry(entry, connection)
        or _token_vault(connection)
        or _nothing_to_renew(entry)
        or _client(entry, connection)
        or _endpoint(entry, connection, around)
    )


def _dead(entry: Entry) -> str | None:
    if not entry.dead_since or entry.dead_since is True:
        return None
    return f"{entry.display_name} ended on {entry.dead_since.isoformat()}. {entry.dead_reason}"


def _of_the_entry(entry: Entry, connection: ConnectionConfig) -> str | None:
    for refused in entry.refuse_when:
        if holds(refused, connection, _NOTHING_KNOWN):
            return f"{refused.because} {refused.advice}".strip()
    return None


def _token_vault(connection: ConnectionConfig) -> str | None:
    """Source: https://auth0.com/docs/authenticate/identity-providers/calling-an-external-idp-api"""
    switches = ["connected_accounts.active", "federated_connections_access_tokens.active"]
    if not any(option(connection, switch) for switch in switches):
        return None
    return (
        "The connection feeds Auth0's Token Vault: Auth0 then stops storing tokens in `identities` "
        "and renews them itself. Turn off Connected Accounts on the connection, or read these "
        "tokens from the Token Vault."
    )


def _nothing_to_renew(entry: Entry) -> str | None:
    if entry.grant != "none":
        return None
    return entry.nothing_to_renew or f"{entry.display_name} offers no renewal; only a login does."


def _client(entry: Entry, connection: ConnectionConfig) -> str | None:
    method = client_auth.method_for(entry, connection)
    if method == "anonymous":
        return None
    if not connection.client_id:
        return (
            "The connection uses Auth0's developer keys (its client_id is empty): the tokens "
            "belong to Auth0's own client, which nobody else can act as. Register a client at "
            f"{entry.display_name} and enter its id and secret in the connection."
        )
    if method == "apple_jwt" and (lacking := client_auth.apple_lacks(connection)):
        return (
            f"The client secret that Apple wants cannot be signed: {lacking} is not known. Enter "
            "it in the connection, or set it for this connection in evergrant.toml."
        )
    if method == "private_key_jwt" and client_auth.own_key(connection) is None:
        return (
            "The connection signs in with private_key_jwt and a key that only Auth0 holds. "
            "Register a second public key for the client at the provider and set `private_key` "
            "(and `key_id`) for this connection, or switch it to a client secret."
        )
    if method in client_auth.NEEDS_SECRET and not _has_secret(connection):
        return (
            "The connection's client secret is not known. Grant our Auth0 client the scope "
            "read:connections_options, or set `client_secret` for this connection."
        )
    return None


def _has_secret(connection: ConnectionConfig) -> bool:
    held = connection.client_secret or client_auth.own_key(connection)
    return bool(held or option(connection, "app_secret"))


def _endpoint(entry: Entry, connection: ConnectionConfig, around: Surroundings) -> str | None:
    try:
        asking.endpoint(entry, connection, around)
    except ConfigurationError as error:
        return (
            f"The token endpoint of {entry.display_name} is not known: {error}. Set "
            "`token_endpoint`, or the value under `fill`, for this connection."
        )
    return None
