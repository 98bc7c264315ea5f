"""Variables of the environment that look like settings and are none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Set

from worker.domain.errors import ConfigurationError

_PREFIX = "EVERGRANT_"
_MEANT_FOR_US = re.compile(r"EVERGRANT_[A-Z_]+")
_REFERENCE = re.compile(r"env:(\w+)")  # a variable of the operator's own, read by a setting
_OF_APPS = frozenset({"EVERGRANT_URL", "EVERGRANT_API_KEY"})  # what our examples give to apps
_CLOSE = 0.8  # TIK is TICK; Kubernetes' SERVICE_HOST and SERVICE_PORT are nothing of ours


def stray(known: Set[str], env: Mapping[str, str], text: str) -> list[str]:
    """Warnings about those that resemble no setting: others may mean them. `text`: of the file.

    Raises: ConfigurationError, one is a setting misspelt. Without its database, say, a worker
    would start on another, empty one.
    """
    told = {*_REFERENCE.findall("\n".join([text, *env.values()])), *_OF_APPS, *known}
    names = sorted(name for name in env if _MEANT_FOR_US.fullmatch(name) and name not in told)
    for name in names:
        if meant := _misspelt(name, known):
            raise ConfigurationError(
                f"{name} is no setting; did you mean {meant}?", code="unknown_key"
            )
    return [f"{name} is no setting" for name in names]


def _misspelt(name: str, known: Set[str]) -> str | None:
    """The setting that it nearly is, apart from the prefix that all have in common."""
    bare = {one.removeprefix(_PREFIX): one for one in known if one.startswith(_PREFIX)}
    close = difflib.get_close_matches(name.removeprefix(_PREFIX), bare, n=1, cutoff=_CLOSE)
    return bare[close[0]] if close else None
