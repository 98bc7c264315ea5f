"""JSON as it is found, for the readers that take only what is right.

Auth0 writes with JavaScript, which escapes half a surrogate pair (`"\\ud83d"`, the first half of an
emoji that was cut) as if it were a character, and what users and API clients named or nested comes
along in events. One such value must cost at most its own record, never the batch it came in.
"""

from __future__ import annotations

import json
import re

_DEEPEST = 64
UNREADABLE = "\ufffd"  # stands where characters were that are none
_HALF = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)  # linear


def mended(text: bytes) -> bytes:
    """The same value in strict JSON: halves of pairs and bad UTF-8 replaced by U+FFFD.

    What has no place in JSON (NaN, infinities), and what is nested too deep for any reader, becomes
    null: nobody hides what happens to him by nesting something in his profile. Raises: ValueError.
    """
    value = json.loads(
        _pruned(text).decode("utf-8", "replace"),
        strict=False,  # control characters in strings
        parse_float=_finite,
        parse_int=_finite,
        parse_constant=lambda _: None,
    )
    told = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _HALF.sub(UNREADABLE, told).encode()


def _pruned(text: bytes) -> bytes:
    """With null for whatever lies deeper than anything of Auth0's."""
    kept: list[bytes] = []
    depth, begins = 0, 0
    for token in _TOKEN.finditer(text):
        match token.group():
            case b"[" | b"{":
                depth += 1
                if depth == _DEEPEST + 1:
                    kept += text[begins : token.start()], b"null"
            case b"]" | b"}":
                depth -= 1
                if depth == _DEEPEST:
                    begins = token.end()
    return b"".join([*kept, text[begins:] if depth <= _DEEPEST else b""])


def elements(array: bytes) -> list[bytes]:
    """The elements of an array, each as it stands, however deep one is nested.

    What is cut off at the end is an element as well. Raises: ValueError, no array.
    """
    array = array.strip()
    if not array.startswith(b"["):
        raise ValueError("no array")
    found: list[bytes] = []
    depth, begins = 0, 1
    for token in _TOKEN.finditer(array):
        match token.group():
            case b"[" | b"{":
                depth += 1
            case b"]" | b"}":
                depth -= 1
            case b"," if depth == 1:
                found.append(array[begins : token.start()].strip())
                begins = token.end()
        if depth == 0:
            last = array[begins : token.start()].strip()
            return [*found, last] if found or last else []
    return [*found, array[begins:].strip()]


def _finite(told: str) -> float | int | None:
    """Of a number too large for others to take: nothing."""
    number = float(told)
    if abs(number) >= 2**63:
        return None
    return int(told) if told.lstrip("-").isdigit() else number
