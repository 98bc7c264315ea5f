"""Paths into an answer: `error.code`, `errors[0].errorType`, `error_codes[]` (each of a list)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

SPELLING = re.compile(r"[\w-]+(\[\d*\])?(\.[\w-]+(\[\d*\])?)*")
_MAPPINGS = (dict, Mapping)  # the look at an abstract class costs ten times as much: last
_STEP = re.compile(r"([\w-]+)(?:\[(\d*)\])?")


def everything_at(value: object, path: str) -> list[object]:
    """All values a path leads to; empty where it leads nowhere. Never raises."""
    if type(value) is dict and path.isidentifier():  # a plain name, as most are
        return [value[path]] if path in value else []
    found: list[object] = [value]
    for name, index in _steps(path):
        found = [item[name] for item in found if isinstance(item, _MAPPINGS) and name in item]
        if index is not None:
            found = list(_listed(found, index))
    return found


def first_at(value: object, paths: Iterable[str]) -> object:
    """The first value that is neither absent, null nor empty; None if there is none."""
    for path in paths:
        if type(value) is dict and path.isidentifier():  # as `everything_at`, without its list
            if (found := value.get(path)) not in (None, ""):
                return found
            continue
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


@lru_cache(1024)  # paths are the catalogue's and ours, so they are few
def _steps(path: str) -> tuple[tuple[str, str | None], ...]:
    """Names, each with the index in brackets behind it: "" for all, None where there is none."""
    return tuple((m[1], m[2]) for m in _STEP.finditer(path))


def _listed(found: Iterable[object], index: str) -> Iterable[object]:
    for item in found:
        if isinstance(item, list):
            yield from item if not index else item[int(index) : int(index) + 1]
