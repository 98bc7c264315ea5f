"""Pulls out of an answer whatever may be a token, before anything is judged (protocol step 6).

Once a rotating provider has answered, the old refresh token is spent and its successor exists
in this body and nowhere else. So this never raises, and reads what no parser would: an answer
cut in the middle, a form where JSON was announced, keys given twice.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from worker.domain.exchange import Answered, Salvaged
from worker.domain.secret import Secret
from worker.providers import paths
from worker.providers.vocabulary import ResponseMap

_LIMIT = 64 * 1024
_VISIBLE = bytes(range(0x20, 0x7F))


def salvage(answer: Answered, where: ResponseMap) -> Salvaged:
    """Never raises; takes at most 64 KiB into account."""
    return found_in(parsed(answer), answer, where)


def found_in(content: dict[str, Any] | None, answer: Answered, where: ResponseMap) -> Salvaged:
    """The same, of an answer that is `parsed` already."""
    access = paths.text_at(content, where.access_token)
    refresh = paths.text_at(content, where.refresh_token)
    if content is None:
        access = _scanned(answer.body, where.access_token)
        refresh = _scanned(answer.body, where.refresh_token)
    return Salvaged(access_token=usable_access_token(access), refresh_token=as_secret(refresh))


def parsed(answer: Answered) -> dict[str, Any] | None:
    """The body as a mapping: JSON, else a form; None when it is neither."""
    body = answer.body[:_LIMIT].removeprefix(b"\xef\xbb\xbf")
    try:
        content = msgspec.json.decode(body)
        return content if isinstance(content, dict) else None
    except (ValueError, RecursionError):
        return _form(body)


def usable_access_token(text: str | None) -> Secret | None:
    """None for what could not stand in a header, a line break above all: an access token is
    visible ASCII and spaces (RFC 6749 appendix A.12)."""
    if not text or not text.isascii():
        return None
    encoded = text.encode()
    return None if encoded.translate(None, _VISIBLE) else Secret(encoded)


def as_secret(text: str | None) -> Secret | None:
    """A refresh token may be any text that UTF-8 can write: it travels in a body."""
    try:
        return Secret(text.encode()) if text else None
    except UnicodeEncodeError:  # half a surrogate pair
        return None


def _form(body: bytes) -> dict[str, Any] | None:
    """`access_token=…&expires=…`: GitHub without an Accept header, old Graph versions."""
    text = body.strip().decode(errors="replace")
    if "=" not in text or text[:1] in "{[<" or "\n" in text:
        return None
    try:
        return dict(parse_qsl(text, max_num_fields=200)) or None
    except ValueError:
        return None


def _scanned(body: bytes, names: list[str]) -> str | None:
    """The last complete string under one of the names in JSON that does not parse.

    Only the last step of a path counts; a string without its closing quote is half a token.
    """
    text = body[:_LIMIT].decode(errors="replace")
    for name in names:
        key = re.escape(name.rpartition(".")[2])
        found = re.findall(rf'"{key}"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.)*")', text)
        for literal in reversed(found):
            if value := _unquoted(literal):
                return value
    return None


def _unquoted(literal: str) -> str | None:
    try:
        value = json.loads(literal)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
