"""Paths into an answer: `error.code`, `errors[0].errorType`, `error_codes[]` (each of a list)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

SPELLING = re.compile(r"[\w-]+(\[\d*\])?(\.[\w-]+(\[\d*\])?)*")
_STEP = re.compile(r"([\w-]+)(?:\[(\d*)\])?")


def everything_at(value: object, path: str) -> list[object]:
    """All values a path leads to; empty where it leads nowhere. Never raises."""
    found: list[object] = [value]
    for name, index in _STEP.findall(path):
        found = [item[name] for item in found if isinstance(item, Mapping) and name in item]
        if f"{name}[" in path:
            found = list(_listed(found, index))
    return found


def first_at(value: object, paths: Iterable[str]) -> object:
    """The first value that is neither absent, null nor empty; None if there is none."""
    for path in paths:
        for found in everything_at(value, path):
            if found not in (None, ""):
                return found
    return None


def text_at(value: object, paths: Iterable[str]) -> str | None:
    """Like `first_at`, for what must be text; a number is its digits, anything else absent."""
    found = first_at(value, paths)
    if isinstance(found, str):
        return found
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    return None


def _listed(found: Iterable[object], index: str) -> Iterable[object]:
    for item in found:
        if isinstance(item, list):
            yield from item if not index else item[int(index) : int(index) + 1]
