"""Why a login brought no refresh token, and which setting of Auth0 changes that."""

from __future__ import annotations

from worker.domain.exchange import ConnectionConfig
from worker.providers.filling import asked_scope, option
from worker.providers.vocabulary import Entry


def without_refresh_token(entry: Entry, connection: ConnectionConfig) -> str:
    """A sentence or two for the operator; "" where none is needed to renew.

    A refresh token is issued at a login and at no other time, so what is mended in the connection
    helps from each person's next login on.
    """
    if entry.grant == "none" or entry.subject == "access_token":
        return ""
    wanted = missing_settings(entry, connection)
    if not wanted:
        wanted = entry.advice or [
            f"{entry.display_name} gave no refresh token: look for an offline or long-lived access "
            "setting of the client registered there."
        ]
    return " ".join([*wanted, "It takes effect at each person's next login."])


def missing_settings(entry: Entry, connection: ConnectionConfig) -> list[str]:
    """What the connection does not ask for although no refresh token comes without it."""
    return [*_missing_scope(entry, connection), *_missing_parameters(entry, connection)]


def _missing_scope(entry: Entry, connection: ConnectionConfig) -> list[str]:
    asked = asked_scope(connection).split()
    if not entry.requires_scopes or set(asked) & set(entry.requires_scopes):
        return []
    scopes = " or ".join(entry.requires_scopes)
    return [f"The connection does not ask for {scopes}: add it to the connection's scopes."]


def _missing_parameters(entry: Entry, connection: ConnectionConfig) -> list[str]:
    """Parameters of the authorization request; Auth0 sends those under `upstream_params`.

    Source: https://auth0.com/docs/authenticate/identity-providers/pass-parameters-to-idps
    """
    missing = [
        f"{name}={value}"
        for name, value in entry.requires_login.items()
        if value and option(connection, f"upstream_params.{name}.value") != value
    ]
    if not missing:
        return []
    return [
        f"The login has to ask for {' and '.join(missing)}: send it along to /authorize, or set it "
        "under the connection's upstream_params."
    ]
