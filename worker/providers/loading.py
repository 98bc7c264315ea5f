"""Reads and checks the catalogue: a key, value or hook nobody knows stops the start.

The message names the file, the line and what was probably meant; it reads like a compiler's.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from worker.domain.errors import ConfigurationError
from worker.providers import paths, templates
from worker.providers.hooks import HOOKS, INTROSPECT
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
    | {"private_key", "key_id", "signing_alg", "audience", "approved_host"}
)
Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where raw entries were read, so that a complaint can name the line."""

    name: str
    text: str = field(repr=False, default="")
    prefix: str = ""  # "providers." where the entries stand in such a table

    def at(self, entry: str, key: str) -> str:
        line = _line_of(self.text.splitlines(), f"{self.prefix}{entry}", key)
        return f"{self.name}:{line}" if line else self.name


def shipped() -> tuple[dict[str, Raw], Origin]:
    """Our own catalogue, raw."""
    text = files("worker.providers").joinpath("catalog.toml").read_text(encoding="utf-8")
    return tomllib.loads(text), Origin(name="catalog.toml", text=text)


def checked(raw: Mapping[str, Raw], origin: Origin) -> dict[str, Entry]:
    """Every entry, what it extends filled in. Raises: ConfigurationError at the first fault."""
    entries = {}
    for name in raw:
        entry = converted(_with_base(name, raw, origin), name, origin)
        _consistent(name, entry, origin)
        entries[name] = entry
    return entries


def converted(raw: Raw, name: str, origin: Origin) -> Entry:
    """One entry, typed. Raises: ConfigurationError with file, line and suggestion."""
    try:
        return msgspec.convert(raw, Entry)
    except msgspec.ValidationError as error:
        raise _complaint(str(error), name, origin) from None


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
            hint = "extends itself" if base in seen else suggestion(str(base), raw)
            raise _fault(name, "extends", f"there is no entry '{base}'{hint}", origin)
        seen.append(base)
        inherited = {key: value for key, value in raw[base].items() if key not in OWN}
        entry = merged(inherited, {k: v for k, v in entry.items() if k != "extends"})
        if "extends" in raw[base]:
            entry["extends"] = raw[base]["extends"]
    return {**entry, "extends": raw[name].get("extends", "")}


def _consistent(name: str, entry: Entry, origin: Origin) -> None:
    """What types cannot say."""
    for key, message in _inconsistencies(entry):
        raise _fault(name, key, message, origin)


def _inconsistencies(entry: Entry) -> Iterator[tuple[str, str]]:
    if not entry.display_name:
        yield "display_name", "display_name is missing"
    if entry.hook and entry.hook not in HOOKS:
        yield "hook", f"there is no hook '{entry.hook}'{suggestion(entry.hook, HOOKS)}"
    if entry.hook == INTROSPECT and not entry.introspection_endpoint:
        yield "hook", f"the hook {INTROSPECT} needs introspection_endpoint"
    if entry.grant != "none" and not (entry.token_endpoint or entry.refresh_endpoint):
        yield "token_endpoint", 'token_endpoint is missing (or grant = "none")'
    yield from _first_inconsistencies(entry)
    if entry.rotation == "single_use_grace" and not entry.rotation_grace:
        yield "rotation", 'rotation = "single_use_grace" needs rotation_grace'
    for key, template in _templates(entry):
        if problem := templates.problem_in(template):
            yield key, f"template '{template}': {problem}"
    for key, path in _paths(entry):
        if not paths.SPELLING.fullmatch(path):
            yield key, f"'{path}' is not a path such as error.code or errors[0].type"
    yield from _ground_inconsistencies(entry)
    for expiry in entry.expiry:
        if (expiry.form == "declared") == bool(expiry.path):
            yield "expiry", f"form '{expiry.form}' needs a path, 'declared' has none"


def _ground_inconsistencies(entry: Entry) -> Iterator[tuple[str, str]]:
    for key in entry.grounds:
        if key.partition(".")[0] not in Entry.__struct_fields__:
            yield "grounds", f"'{key}' is no key{suggestion(key, Entry.__struct_fields__)}"


def _first_inconsistencies(entry: Entry) -> Iterator[tuple[str, str]]:
    first = entry.first
    if first and not first.lives:
        yield "first", "first needs lives: how long a login's token lives where nobody tells"
    if first and (first.grant or first.token_endpoint) and not entry.timing.not_before:
        yield (
            "first",
            "first with a request of its own needs timing.not_before: it tells them apart",
        )


def _templates(entry: Entry) -> Iterator[tuple[str, str]]:
    yield "token_endpoint", entry.token_endpoint
    yield "refresh_endpoint", entry.refresh_endpoint
    yield "first", entry.first.token_endpoint if entry.first else ""
    yield "introspection_endpoint", entry.introspection_endpoint
    yield "endpoint", entry.revoke.endpoint
    yield from (("extra_params", t) for t in entry.extra_params.values())
    yield from (("extra_params", t) for t in entry.revoke.extra_params.values())
    yield from (("headers", t) for t in entry.headers.values())


def _paths(entry: Entry) -> Iterator[tuple[str, str]]:
    yield from (("codes_at", code.path) for code in entry.errors.codes_at)
    yield from (("ok_at", path) for path in [entry.errors.ok_at] if path)
    yield from (("expiry", form.path) for form in entry.expiry if form.path)
    for key, listed in msgspec.structs.asdict(entry.response_map).items():
        yield from ((key, path) for path in listed)


def _complaint(message: str, name: str, origin: Origin) -> ConfigurationError:
    """A msgspec message turned into one for the person who wrote the line."""
    what, _, where = message.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        path = f"{where}.{unknown[1]}".lstrip(".")
        hint = suggestion(unknown[1], sorted(_words()[0]))
        return _fault(name, unknown[1], f"unknown key '{path}'{hint}", origin)
    key = re.sub(r"\[.*?\]", "", where).split(".")[-1]
    if wrong := re.fullmatch(r"Invalid enum value '(.*)'", what):
        hint = suggestion(wrong[1], sorted(_words()[1]))
        return _fault(name, key, f"'{wrong[1]}' is no value of {where}{hint}", origin)
    return _fault(name, key, f"{where}: {what}", origin)


def _fault(name: str, key: str, message: str, origin: Origin) -> ConfigurationError:
    return ConfigurationError(
        f"{origin.at(name, key)}: provider {name}: {message}", code="bad_catalogue"
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


@cache
def _words() -> tuple[frozenset[str], frozenset[str]]:
    """Every key and every fixed value of the vocabulary, from its own schema."""
    keys: set[str] = set()
    values: set[str] = set()

    def walk(node: object) -> None:
        if isinstance(node, dict):
            keys.update(node.get("properties", {}))
            values.update(v for v in node.get("enum", []) if isinstance(v, str))
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(msgspec.json.schema(Entry))
    return frozenset(keys), frozenset(values)


def _line_of(lines: list[str], table: str, key: str) -> int | None:
    """The line of `key` in `[table]` or in a table below it; else the header; 1-based."""
    header = None
    inside = False
    for number, line in enumerate(lines, 1):
        if match := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
            title = match[1].replace('"', "").replace("'", "")
            inside = title == table or title.startswith(f"{table}.")
            header = number if title == table else header
            if inside and title.rpartition(".")[2] == key:
                return number
        elif inside and re.search(rf"(^|[\s{{,])['\"]?{re.escape(key)}['\"]?\s*=", line):
            return number
    return header
