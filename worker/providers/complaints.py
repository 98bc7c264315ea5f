"""What is wrong with an entry, said to whoever wrote it: file, line, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any

import msgspec

from worker.domain.errors import ConfigurationError
from worker.providers.vocabulary import Entry
from worker.settings.lines import line_of

_FEW = 12  # so many words are listed where none is close


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where raw entries were read, so that a complaint can name the line."""

    name: str
    text: str = field(repr=False, default="")
    prefix: str = ""  # "providers." where the entries stand in such a table
    kind: str = "provider"  # or "connection"

    def at(self, entry: str, key: str) -> str:
        line = line_of(self.text, f"{self.prefix}{entry}", key)
        return f"{self.name}:{line}" if line else self.name


def fault(name: str, key: str, message: str, origin: Origin) -> ConfigurationError:
    return ConfigurationError(
        f"{origin.at(name, key)}: {origin.kind} {name}: {message}", code="bad_catalogue"
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    """The word that was probably meant; the choice, where none is close and there is little."""
    words = sorted(known)
    if close := get_close_matches(word, words, n=1, cutoff=0.6):
        return f"; did you mean '{close[0]}'?"
    return f"; there is {', '.join(words)}" if 0 < len(words) <= _FEW else ""


def complaint(error: msgspec.ValidationError, name: str, origin: Origin) -> ConfigurationError:
    """msgspec's message turned into one for a person."""
    what, _, where = str(error).partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        path = f"{where}.{unknown[1]}".lstrip(".")
        hint = suggestion(unknown[1], _keys(where))
        return fault(name, unknown[1], f"unknown key '{path}'{hint}", origin)
    key = re.sub(r"\[.*?\]", "", where).split(".")[-1]
    if wrong := re.fullmatch(r"Invalid enum value '(.*)'", what):
        hint = suggestion(wrong[1], _values(where))
        return fault(name, key, f"'{wrong[1]}' is no value of {where}{hint}", origin)
    return fault(name, key, f"{where}: {_plainly(what)}", origin)


_PLAINLY = (
    (r".*regex .*smhd.*", "write a number and a unit: 45s, 15m, 8h or 60d"),
    (r"Expected `array`, got .*", 'write a list: ["…"]'),
    (r"Expected `object`, got .*", "write a table: { key = … }"),
    (r"Expected `str`, got .*", 'write a text, in quotes: "…"'),
    (r"Expected `(int|float)`, got .*", "write a number, without quotes"),
    (r"Expected `(bool|bool \| null)`, got .*", "write true or false"),
    (r"Invalid RFC3339 encoded date", "write a day: 2026-11-28, without quotes"),
    (r"Expected `(int|float)` (>=|<=|>|<) (.*)", r"write a number \2 \3"),
    (r"Object missing required field `(.*)`", r"\1 is missing"),
)


def _plainly(what: str) -> str:
    for pattern, said in _PLAINLY:
        if found := re.fullmatch(pattern, what):
            return found.expand(said)
    return what


def _keys(where: str) -> list[str]:
    return sorted(_node(where).get("properties", {}))


def _values(where: str) -> list[str]:
    node = _node(where)
    choices = [node, *node.get("anyOf", [])]
    return [value for one in choices for value in one.get("enum", []) if isinstance(value, str)]


def _node(where: str) -> dict[str, Any]:
    """The part of the schema that a path such as `expiry[0].form` names."""
    node, definitions = _schema()
    for step in re.findall(r"[^.\[\]]+|\[[^\]]*\]", where):
        if step.startswith("["):
            node = node.get("items") or node.get("additionalProperties") or {}
        else:
            node = node.get("properties", {}).get(step) or node.get("additionalProperties") or {}
        node = _followed(node if isinstance(node, dict) else {}, definitions)
    return node


def _followed(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    for one in (node, *node.get("anyOf", [])):
        if "$ref" in one:
            return dict(definitions[one["$ref"].rpartition("/")[2]])
    return node


@cache
def _schema() -> tuple[dict[str, Any], dict[str, Any]]:
    (entry,), definitions = msgspec.json.schema_components([Entry], ref_template="#/$defs/{name}")
    return _followed(entry, definitions), definitions
