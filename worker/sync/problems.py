"""What is wrong with a connection at Auth0, as codes the store keeps and sentences for people."""

from __future__ import annotations

from collections.abc import Mapping

from worker.auth0 import Connection
from worker.domain.exchange import ConnectionConfig
from worker.store.connections import CLIENT_LOST, DEVELOPER_KEYS

PROBLEMS: Mapping[str, str] = {
    "options_hidden": (
        "Auth0 shows no options: grant the application read:connections_options, or set client_id "
        "and client_secret for this connection in evergrant.toml"
    ),
    DEVELOPER_KEYS: (
        "the connection uses Auth0's developer keys, whose secret nobody else knows: enter a "
        "client of your own. Grants of a client that it had before are renewed with that one"
    ),
    "token_vault": (
        "Connected Accounts (Token Vault) is on: Auth0 keeps new tokens out of the users' "
        "identities, so logins bring us none"
    ),
    "client_swapped": (
        "the connection has another OAuth client than before: refresh tokens of the old one die, "
        "and its users must log in once more"
    ),
    CLIENT_LOST: (
        "the connection has lost its OAuth client, as after an edit that did not echo it: the "
        "grants there are renewed with the client remembered, but logins fail, or bring tokens "
        "that nobody can renew. Enter client id and secret again"
    ),
    "consent_lost": (
        "the administrator's tokens are gone from the connection, as after an edit that did not "
        "echo them: an administrator must consent again"
    ),
    "directory_sync_failed": (
        "Auth0's last directory sync of the connection failed: most often the administrator's "
        "tokens have died, which are ours as well. Auth0's log has the reason; if that is it, an "
        "administrator of the directory consents again, at Auth0 → Authentication → Enterprise "
        "→ the connection → Setup. The next sync that goes well clears this"
    ),
    "tokens_vanished": (
        "identities that held tokens hold none now: look at Token Vault, and at the scope "
        "read:user_idp_tokens"
    ),
    "tokens_not_stored": (
        "the connection is set not to store what renewing needs (ext_access_token, "
        "ext_refresh_token or ext_expires_in is off)"
    ),
}
SYNC_FAILED = "directory_sync_failed"
# not to be seen in the connection itself: they stay until an operator, or a consent, clears them
LASTING = frozenset({"client_swapped", "consent_lost", SYNC_FAILED, "tokens_vanished"})
# what a new consent of the administrator mends
CONSENTED = frozenset({"consent_lost", SYNC_FAILED})


def explain_problem(code: str) -> str:
    return PROBLEMS.get(code, code)


def problems_of(
    connection: Connection, before: ConnectionConfig | None, *, had_admin: bool, has_admin: bool
) -> frozenset[str]:
    """What `connection` suffers from, seen against how it was before."""
    if connection.options is None:
        return frozenset({"options_hidden"} | _vault(connection))
    client_id = connection.options.get("client_id")
    found = _vault(connection)
    if client_id == "":  # absent altogether: a strategy without a client
        found |= {DEVELOPER_KEYS}
    if before is not None and before.client_id and client_id and before.client_id != client_id:
        found |= {"client_swapped"}
    if had_admin and not has_admin:
        found |= {"consent_lost"}
    if any(connection.options.get(f"ext_{name}") is False for name in _STORED):
        found |= {"tokens_not_stored"}
    return frozenset(found)


_STORED = ("access_token", "refresh_token", "expires_in")


def _vault(connection: Connection) -> set[str]:
    return {"token_vault"} if connection.vault_active else set()
