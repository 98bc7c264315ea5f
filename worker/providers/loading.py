"""Reads and checks the catalogue: a key, value or hook nobody knows stops the start.

The message names the file, the line and what was probably meant; it reads like a compiler's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import msgspec

from worker.providers.complaints import Origin, complaint, fault, suggestion
from worker.providers.consistency import Problem, inconsistencies
from worker.providers.vocabulary import Entry

# Never taken over from another entry: these say which grants an entry serves, or who vouches.
OWN = frozenset(
    {"display_name", "strategies", "match_token_host", "match_token_path", "applies_when"}
    | {"dead_since", "dead_reason", "source", "as_of", "confidence", "extends"}
    | {"grounds", "changes"}
    | {"account_claim"}  # what Auth0 takes for the user id differs by strategy
)
# Keys of a connection in evergrant.toml that are not the catalogue's.
CONNECTION_KEYS = frozenset(
    {"provider", "client_id", "client_secret", "required_scopes", "enabled"}
    | {"private_key", "key_id", "signing_alg", "audience", "approved_host", "team_id"}
)
Raw = Mapping[str, Any]


def shipped() -> tuple[dict[str, Raw], Origin]:
    """Our own catalogue, raw."""
    text = files("worker.providers").joinpath("catalog.toml").read_text(encoding="utf-8")
    return tomllib.loads(text), Origin(name="catalog.toml", text=text)


def checked(
    raw: Mapping[str, Raw], origin: Origin, *, plain_http: bool = False
) -> dict[str, Entry]:
    """Every entry, what it extends filled in. Raises: ConfigurationError at the first fault."""
    entries = {}
    for name in raw:
        entry = converted(_with_base(name, raw, origin), name, origin)
        refuse_first(inconsistencies(name, entry, plain_http=plain_http), name, origin)
        entries[name] = entry
    return entries


def refuse_first(problems: Iterable[Problem], name: str, origin: Origin) -> None:
    """Raises: ConfigurationError for the first of them, if there is one."""
    for key, message in problems:
        raise fault(name, key, message, origin)


def converted(raw: Raw, name: str, origin: Origin) -> Entry:
    """One entry, typed. Raises: ConfigurationError with file, line and suggestion."""
    if isinstance(host := raw.get("match_token_host"), str):
        raw = {**raw, "match_token_host": [host]}  # most have one
    try:
        return msgspec.convert(raw, Entry)
    except msgspec.ValidationError as error:
        raise complaint(error, name, origin) from None


def merged(below: Raw, above: Raw) -> dict[str, Any]:
    """`above` wins key by key; tables are merged, lists are replaced."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        result[key] = merged(old, value) if both and old is not None else value
    return result


def _with_base(name: str, raw: Mapping[str, Raw], origin: Origin) -> Raw:
    entry, seen = raw[name], [name]
    while base := entry.get("extends"):
        if base not in raw or base in seen:
            unknown = f"there is no entry '{base}'{suggestion(str(base), raw)}"
            told = f"'{base}' extends itself in the end" if base in seen else unknown
            raise fault(name, "extends", told, origin)
        seen.append(base)
        inherited = {key: value for key, value in raw[base].items() if key not in OWN}
        entry = merged(inherited, {k: v for k, v in entry.items() if k != "extends"})
        if "extends" in raw[base]:
            entry["extends"] = raw[base]["extends"]
    return {**entry, "extends": raw[name].get("extends", "")}
