"""The line of a key in a TOML file, for messages about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_HEADER = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]+")


def line_of(text: str, table: str, key: str) -> int | None:
    """Where `key` of `[table]`, or of a table below it, stands; else the header; 1-based.

    Args:
        table: "" for the keys that stand before any header.
    """
    header = None
    inside = not table
    for number, line in enumerate(text.splitlines(), 1):
        if title := _title(line):
            inside = bool(table) and (title == table or title.startswith(f"{table}."))
            header = number if title == table else header
            own = f"{table}.{key}" if table else key
            if f"{title}.".startswith(f"{own}.") or (inside and title.rpartition(".")[2] == key):
                return number
        elif inside and re.search(rf"(^|[\s{{,])['\"]?{re.escape(key)}['\"]?\s*=", line):
            return number
    return header


def line_at(text: str, path: Sequence[str]) -> int | None:
    """Of the key at a dotted path, however much of the path its header spells out."""
    for table, key in _splits(path):
        if line := line_of(text, table, key):
            return line
    return None


def _splits(path: Sequence[str]) -> Iterator[tuple[str, str]]:
    for at in range(len(path) - 1, -1, -1):
        yield ".".join(path[:at]), path[at]


def _title(line: str) -> str:
    found = _HEADER.match(line)
    return re.sub(r"\s*\.\s*", ".", re.sub(r"[\"']", "", found[1])) if found else ""
