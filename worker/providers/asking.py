"""Builds the request that renews."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from secrets import token_hex
from urllib.parse import quote_from_bytes

import msgspec

from worker.domain.errors import ConfigurationError
from worker.domain.exchange import ConnectionConfig, WireRequest
from worker.domain.secret import Secret
from worker.providers import client_auth, templates
from worker.providers.vocabulary import Entry, First
from worker.providers.wire import (
    Surroundings,
    check_pinned,
    custom_headers,
    filled,
    lookup,
    wired,
)


def audience(entry: Entry, connection: ConnectionConfig, around: Surroundings, url: str) -> str:
    """Whom a signed assertion is for: the token endpoint, also where another door is asked.

    RFC 7523 §3 names its address as what a server knows itself by; some take no other. `url`: that
    door's, where no token endpoint is known.
    """
    try:
        return endpoint(entry, connection, around)
    except ConfigurationError:
        return url


def refresh(
    entry: Entry,
    connection: ConnectionConfig,
    around: Surroundings,
    *,
    subject: Secret,
    scope: str | None,
    now: datetime,
    first: bool = False,
    url: str | None = None,
) -> WireRequest:
    """`url`: the endpoint, where it is known already.

    Raises: ConfigurationError naming what is missing or refused.
    """
    if first and entry.first is not None:
        entry, url = _of_first(entry, entry.first), None
    url = url or endpoint(entry, connection, around)
    value_of = lookup(entry, connection, around, scope)
    proof = client_auth.prove(entry, connection, audience=url, now=now)
    params = {
        entry.grant_param: entry.grant,
        entry.subject_param: subject.text(),
        **proof.params,
        **filled(entry.extra_params, value_of),
    }
    headers = {**filled(entry.headers, value_of), **custom_headers(connection), **proof.headers}
    body = None if entry.params_in == "query" else entry.body
    request = wired(
        entry.method, url, connection, around, params=params, headers=headers, body=body
    )
    check_pinned(request, connection)
    return request


@dataclass(frozen=True, slots=True)
class Form:
    """A request that renews, ready but for the token it spends: all grants of a connection that
    have the same scopes send the same."""

    blank: WireRequest
    before: bytes = field(repr=False)
    after: bytes = field(repr=False)

    def spending(self, subject: Secret) -> WireRequest:
        token = quote_from_bytes(subject.reveal(), safe="").encode("ascii")
        return WireRequest(
            method=self.blank.method,
            url=self.blank.url,
            host=self.blank.host,
            headers=self.blank.headers,
            body=self.before + token + self.after,
        )


def form(
    entry: Entry, connection: ConnectionConfig, ask: Callable[[Secret], WireRequest]
) -> Form | None:
    """None where the token does not stand in a form, or requests differ by more than the token.

    Raises: ConfigurationError, as `ask` does.
    """
    in_form = entry.params_in != "query" and entry.body == "form"
    if not in_form or client_auth.method_for(entry, connection) in client_auth.SIGNED:
        return None
    blank = ask(_BLANK)
    before, found, after = blank.body.partition(_BLANK.reveal())
    return Form(blank, before, after) if found and _BLANK.reveal() not in after else None


_BLANK = Secret(token_hex(16))  # stands where the token will; no escape of a form changes it


def _of_first(entry: Entry, first: First) -> Entry:
    """The entry as it asks about a login's token."""
    return msgspec.structs.replace(
        entry,
        token_endpoint=first.token_endpoint or entry.token_endpoint,
        refresh_endpoint="" if first.token_endpoint else entry.refresh_endpoint,
        grant=first.grant or entry.grant,
        client_auth=first.client_auth or entry.client_auth,
    )


def endpoint(entry: Entry, connection: ConnectionConfig, around: Surroundings) -> str:
    """Where the entry renews on this connection. Raises: ConfigurationError."""
    template = entry.refresh_endpoint or entry.token_endpoint
    return templates.fill_url(template, lookup(entry, connection, around))
