"""What an OAuth 1.0a provider does with a signed request: reckons the signature anew (RFC 5849).

From the RFC, not by the library that signs on our side: the two are to find each other's faults.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_PARAMETER = re.compile(r'([^\s=,"]+)="([^"]*)"')


def parameters(header: str) -> dict[str, str]:
    """Of an Authorization header, decoded (section 3.5.1); empty for another scheme."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "oauth":
        return {}
    return {unquote(name): unquote(value) for name, value in _PARAMETER.findall(rest)}


def signature(
    method: str, url: str, told: Mapping[str, str], *, client_secret: str, token_secret: str
) -> str:
    """HMAC-SHA1 over the request (sections 3.4.1 and 3.4.2), of one without a form as its body."""
    parts = urlsplit(url)
    signed = [
        *parse_qsl(parts.query, keep_blank_values=True),
        *((name, value) for name, value in told.items() if name not in _UNSIGNED),
    ]
    address = f"{parts.scheme.lower()}://{parts.netloc.lower()}{parts.path or '/'}"
    text = "&".join(map(_encoded, (method.upper(), address, _normal(signed))))
    key = f"{_encoded(client_secret)}&{_encoded(token_secret)}"
    return base64.b64encode(hmac.digest(key.encode(), text.encode(), hashlib.sha1)).decode()


_UNSIGNED = frozenset({"realm", "oauth_signature"})


def _normal(pairs: Iterable[tuple[str, str]]) -> str:
    """Encoded first, sorted then (section 3.4.1.3.2)."""
    encoded = sorted((_encoded(name), _encoded(value)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _encoded(text: str) -> str:
    return quote(text, safe="~")  # section 3.6
