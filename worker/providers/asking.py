"""Builds the requests that leave for a provider: refresh, revocation, introspection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

import msgspec

from worker import __version__
from worker.domain.errors import ConfigurationError
from worker.domain.exchange import ConnectionConfig, WireRequest
from worker.domain.secret import Secret
from worker.providers import addresses, client_auth, templates
from worker.providers.filling import lookup_for
from worker.providers.vocabulary import Entry

_CONTENT_TYPES = {"form": "application/x-www-form-urlencoded", "json": "application/json"}
_HEADER_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
# The transport writes these itself; one from the options would break the framing or the pinning.
_FRAMING = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "expect"}
    | {"te", "trailer", "upgrade", "cookie", "keep-alive", "proxy-connection", "accept-encoding"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What requests depend on beside entry and connection; the same for a whole process."""

    allow_loopback: bool = False
    auth0_domains: Mapping[str, str]  # tenant → domain, for redirect URIs


def refresh(
    entry: Entry,
    connection: ConnectionConfig,
    around: Surroundings,
    *,
    subject: Secret,
    scope: str | None,
    now: datetime,
) -> WireRequest:
    """The request that renews. Raises: ConfigurationError naming what is missing or refused."""
    url = endpoint(entry, connection, around)
    lookup = _lookup(entry, connection, around, scope)
    proof = client_auth.prove(entry, connection, audience=url, now=now)
    params = {
        entry.grant_param: entry.grant,
        entry.subject_param: subject.text(),
        **proof.params,
        **_filled(entry.extra_params, lookup),
    }
    headers = {**_filled(entry.headers, lookup), **_custom(connection), **proof.headers}
    body = None if entry.params_in == "query" else entry.body
    request = _wire(
        entry.method, url, connection, around, params=params, headers=headers, body=body
    )
    _check_pinned(request, connection)
    return request


def endpoint(entry: Entry, connection: ConnectionConfig, around: Surroundings) -> str:
    """Where the entry renews on this connection. Raises: ConfigurationError."""
    template = entry.refresh_endpoint or entry.token_endpoint
    return templates.fill_url(template, _lookup(entry, connection, around, None))


def revocation(
    entry: Entry,
    connection: ConnectionConfig,
    around: Surroundings,
    *,
    access_token: Secret | None,
    refresh_token: Secret | None,
    now: datetime,
) -> WireRequest | None:
    """The request that ends the consent; None where there is none, or not with what we hold."""
    revoke = entry.revoke
    token, hint = access_token, "access_token"
    if revoke.token != "access_token" and refresh_token:
        token, hint = refresh_token, "refresh_token"
    if not revoke.endpoint or token is None or (revoke.token == "refresh_token" != hint):
        return None
    lookup = _lookup(entry, connection, around, None, more={"token": token.text()})
    url = templates.fill_url(revoke.endpoint, lookup)
    params = {revoke.token_param: token.text()} if revoke.token_param else {}
    if revoke.type_hint:
        params["token_type_hint"] = hint
    headers = {}
    if revoke.auth == "bearer":
        headers["authorization"] = f"Bearer {token.text()}"
    elif revoke.auth == "client_id":
        params[entry.client_id_param] = lookup("client_id") or ""
    elif revoke.auth in {"client", "basic"}:
        proved = entry if revoke.auth == "client" else _with_basic(entry)
        proof = client_auth.prove(proved, connection, audience=url, now=now)
        params |= proof.params
        headers |= _custom(connection) | proof.headers
    params |= _filled(revoke.extra_params, lookup)
    body = None if revoke.body == "none" else revoke.body
    request = _wire(
        revoke.method, url, connection, around, params=params, headers=headers, body=body
    )
    if f"://{request.host}/" not in revoke.endpoint:  # the catalogue's own word needs no pin
        _check_pinned(request, connection)
    return request


def _wire(
    method: str,
    url: str,
    connection: ConnectionConfig,
    around: Surroundings,
    *,
    params: Mapping[str, str],
    headers: Mapping[str, str],
    body: str | None,
) -> WireRequest:
    """`body` is "form", "json" or None, which puts the parameters into the query string."""
    if body is None and params:
        url += ("&" if "?" in url else "?") + urlencode(params)
    target = addresses.target(
        url, approved_host=connection.approved_host, allow_loopback=around.allow_loopback
    )
    content = b""
    sent = {"accept": "application/json", "user-agent": f"Evergrant/{__version__}", **headers}
    if body is not None:
        content = msgspec.json.encode(params) if body == "json" else urlencode(params).encode()
        sent["content-type"] = _CONTENT_TYPES[body]
    for name, value in sent.items():
        if not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(f"header {name} has a line break", code="bad_header")
    return WireRequest(method=method, url=url, host=target.host, headers=sent, body=content)


def _check_pinned(request: WireRequest, connection: ConnectionConfig) -> None:
    """Somebody edited the connection's options, or the entry: a person has to look (I13)."""
    approved = connection.approved_host
    if approved is not None and request.host != approved:
        raise ConfigurationError(
            f"connection {connection.name} was approved for {approved} and now names "
            f"{request.host}",
            code="host_changed",
        )


def _lookup(
    entry: Entry,
    connection: ConnectionConfig,
    around: Surroundings,
    scope: str | None,
    more: Mapping[str, str] | None = None,
) -> templates.Lookup:
    domain = around.auth0_domains.get(connection.tenant, "")
    return lookup_for(entry, connection, scope=scope, auth0_domain=domain, more=more)


def _filled(wanted: Mapping[str, str], lookup: templates.Lookup) -> dict[str, str]:
    """Parameters that come out empty are left out: the template allowed for it."""
    filled = {name: templates.fill(template, lookup) for name, template in wanted.items()}
    return {name: value for name, value in filled.items() if value}


def _custom(connection: ConnectionConfig) -> dict[str, str]:
    """The connection's `customHeaders`, which Auth0 sends to the token endpoint too."""
    named = {name.lower(): value.text() for name, value in connection.headers.items()}
    return {name: value for name, value in named.items() if name not in _FRAMING}


def _with_basic(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, client_auth="basic")
