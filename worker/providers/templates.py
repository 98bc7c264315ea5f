"""Templates of the catalogue: text with placeholders, filled from a connection.

    {tenantId|tenant_domain}     the first that has a value
    {useCommonEndpoint?common}   the word after the mark, if that option is set
    {realm|'master'}             a fixed value as the last resort
    {token_url} | https://…      addresses only: the first of several that can be filled

A placeholder at the start of an address may be a whole address (`{token_url}`); anywhere else
its value is one host or one path segment, and cannot smuggle in another host, port or query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import quote

from worker.domain.errors import ConfigurationError

Lookup = Callable[[str], str | None]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ALTERNATIVE = re.compile(r"[A-Za-z_][\w.]*(\?[\w.-]+)?|'[^']*'")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")


class MissingValueError(ConfigurationError):
    """No alternative of a placeholder has a value."""


def problem_in(template: str) -> str | None:
    """What is wrong with the spelling of a template; None: nothing."""
    if "{" in _PLACEHOLDER.sub("", template) or "}" in _PLACEHOLDER.sub("", template):
        return "a brace is left open"
    for inner in _PLACEHOLDER.findall(template):
        for alternative in inner.split("|"):
            if not _ALTERNATIVE.fullmatch(alternative):
                return f"'{alternative}' is neither a name, a name?word nor a 'fixed value'"
    return None


def placeholders(template: str) -> list[str]:
    """What stands between the braces of each placeholder."""
    return _PLACEHOLDER.findall(template)


def names_in(template: str) -> Iterator[str]:
    """Every name a template may ask for."""
    for inner in placeholders(template):
        for alternative in inner.split("|"):
            if not alternative.startswith("'"):
                yield alternative.split("?")[0]


def fill(template: str, lookup: Lookup) -> str:
    """Plain text, for a parameter or a header. Raises: ConfigurationError naming what lacks."""
    return _PLACEHOLDER.sub(lambda match: _value(match[1], lookup), template)


def fill_url(template: str, lookup: Lookup) -> str:
    """An address. Raises: ConfigurationError for what lacks or does not belong in an address."""
    *first, last = template.split(" | ")
    for alternative in first:
        with suppress(MissingValueError):
            return _filled_url(alternative, lookup)
    return _filled_url(last, lookup)


def _filled_url(template: str, lookup: Lookup) -> str:

    def placed(match: re.Match[str]) -> str:
        value = _value(match[1], lookup)
        if match.start() == 0:
            return value.rstrip("/")
        # A host ends at the first slash after "https://"; what stands before it is a host's part.
        if "/" in template[: match.start()].partition("://")[2]:
            return quote(value, safe="")
        if not _HOST.fullmatch(value):
            raise ConfigurationError(
                f"the value of {{{match[1]}}} is not a host name", code="bad_endpoint"
            )
        return value

    return _PLACEHOLDER.sub(placed, template)


def _value(inner: str, lookup: Lookup) -> str:
    for alternative in inner.split("|"):
        if alternative.startswith("'"):
            return alternative[1:-1]
        name, _, word = alternative.partition("?")
        if value := lookup(name):
            return word or value
    wanted = " or ".join(a.split("?")[0] for a in inner.split("|"))
    raise MissingValueError(f"{wanted} is not set", code="missing_option")
