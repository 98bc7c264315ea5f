"""What every request to a provider has in common: the address check, the framing, the pin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec

from worker import __version__
from worker.domain.errors import ConfigurationError
from worker.domain.exchange import ConnectionConfig, WireRequest
from worker.providers import addresses, templates
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


def wired(
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


def check_pinned(request: WireRequest, connection: ConnectionConfig) -> None:
    """Somebody edited the connection's options, or the entry: a person has to look (I13)."""
    approved = connection.approved_host
    if approved is not None and request.host != approved:
        raise ConfigurationError(
            f"connection {connection.name} was approved for {approved} and now names "
            f"{request.host}",
            code="host_changed",
        )


def lookup(
    entry: Entry,
    connection: ConnectionConfig,
    around: Surroundings,
    scope: str | None = None,
    more: Mapping[str, str] | None = None,
) -> templates.Lookup:
    domain = around.auth0_domains.get(connection.tenant, "")
    return lookup_for(entry, connection, scope=scope, auth0_domain=domain, more=more)


def filled(wanted: Mapping[str, str], lookup: templates.Lookup) -> dict[str, str]:
    """Parameters that come out empty are left out: the template allowed for it."""
    values = {name: templates.fill(template, lookup) for name, template in wanted.items()}
    return {name: value for name, value in values.items() if value}


def custom_headers(connection: ConnectionConfig) -> dict[str, str]:
    """The connection's `customHeaders`, which Auth0 sends to the token endpoint too."""
    named = {name.lower(): value.text() for name, value in connection.headers.items()}
    return {name: value for name, value in named.items() if name not in _FRAMING}
