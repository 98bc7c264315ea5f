"""Lists of Auth0 user ids as people have them: a file, a pipe, Auth0's own export."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from worker.domain.errors import ConfigurationError

_LONGEST = 1024  # characters; Auth0's ids are far shorter


def read_ids(file: Path) -> Sequence[str]:
    """The ids of a file, or of standard input (`-`), each once, in their order.

    One a line; empty lines and those that begin with # are passed over. Auth0's export of users
    (NDJSON, gzip or not) is taken as it is. Raises: ConfigurationError naming the first line that
    is no id, before anything is read at Auth0.
    """
    ids = list(dict.fromkeys(_ids(file, _text(file))))
    if not ids:
        raise ConfigurationError(f"{_name(file)}: there is no user id in it")
    return ids


def _text(file: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{_name(file)}: not a text file in UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "a damaged gzip file"
        raise ConfigurationError(f"{_name(file)}: {reason}") from error


def _ids(file: Path, content: str) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(), start=1):
        told = line.strip()
        if not told or told.startswith("#"):
            continue
        user_id = _exported(told) if told.startswith("{") else told
        if user_id is None or not _looks_like_one(user_id):
            raise ConfigurationError(
                f"{_name(file)}, line {number}: {told[:60]!r} is no Auth0 user id (as"
                " google-oauth2|1077, one a line); nothing was read"
            )
        yield user_id


def _exported(line: str) -> str | None:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    user_id = told.get("user_id") if isinstance(told, dict) else None
    return user_id if isinstance(user_id, str) else None


def _looks_like_one(user_id: str) -> bool:
    strategy, bar, rest = user_id.partition("|")
    return bool(strategy and bar and rest and len(user_id) <= _LONGEST and user_id.isprintable())


def _name(file: Path) -> str:
    return "standard input" if str(file) == "-" else str(file)
