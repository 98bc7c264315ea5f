"""Who may post: header secrets of Auth0's streams, signatures of the Action that we ship.

Auth0 signs no webhook; both kinds of stream carry a fixed header
(https://auth0.com/docs/customize/log-streams/custom-log-streams). What it may do is therefore kept
small (I21, I22). Our own Action signs: https://www.standardwebhooks.com.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from standardwebhooks import Webhook, WebhookVerificationError

from worker.domain.secret import Secret

Headers = Sequence[tuple[bytes, bytes]]  # as ASGI gives them: names in lower case


@dataclass(frozen=True, slots=True)
class HeaderSecret:
    """A header that must come exactly once with exactly this value.

    Only the value's hash is kept (a stolen memory of the web process holds no stream secret), and
    hashes are of one length, so that comparing them tells nothing of it.
    """

    name: bytes
    digest: bytes = field(repr=False)

    def admits(self, headers: Headers) -> bool:
        given = [value for name, value in headers if name == self.name]
        seen = hashlib.sha256(given[0] if len(given) == 1 else b"").digest()
        return hmac.compare_digest(seen, self.digest)


def verbatim(value: Secret) -> HeaderSecret:
    """`Authorization: <value>`, as a log stream sends it: no scheme is added."""
    return _header(b"authorization", value.reveal())


def bearer(token: Secret) -> HeaderSecret:
    """`Authorization: Bearer <token>`."""
    return _header(b"authorization", b"Bearer " + token.reveal())


def basic(user: str, password: Secret) -> HeaderSecret:
    """`Authorization: Basic <base64 of user:password>`."""
    return _header(
        b"authorization", b"Basic " + b64encode(user.encode() + b":" + password.reveal())
    )


def custom(name: str, value: Secret) -> HeaderSecret:
    """A header of the operator's choice."""
    return _header(name.lower().encode(), value.reveal())


def _header(name: bytes, value: bytes) -> HeaderSecret:
    return HeaderSecret(name, hashlib.sha256(value).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantDoors:
    """What opens one tenant's doors. Several secrets each, so that one can be rotated."""

    logs: tuple[HeaderSecret, ...] = ()
    events: tuple[HeaderSecret, ...] = ()
    actions: tuple[Secret, ...] = ()  # "whsec_…" or bare base64


_UNKNOWN = b64encode(os.urandom(32)).decode()
NOBODY = TenantDoors(
    logs=(_header(b"authorization", _UNKNOWN.encode()),),
    events=(_header(b"authorization", _UNKNOWN.encode()),),
    actions=(Secret(_UNKNOWN),),
)
"""Stands in for an unknown tenant and for a door without secrets: answers and takes as long.

Random, for a fixed one could be signed with.
"""


def admitted(secrets: Iterable[HeaderSecret], headers: Headers) -> bool:
    """Whether any of the secrets was given; all are compared, whichever fits."""
    answers = [secret.admits(headers) for secret in secrets]
    return any(answers)


def signed_id(secrets: Iterable[Secret], headers: Headers, body: bytes) -> str | None:
    """The `webhook-id` of a body that one of the secrets signed; None: refuse.

    The library compares in constant time and refuses timestamps more than 5 minutes off, early
    or late. It raises plain ValueErrors on malformed signatures, which are refusals as well.
    """
    names = [name for name, _ in headers if name.startswith(b"webhook-")]
    if len(names) != len(set(names)):
        return None
    given = {n.decode("latin-1"): v.decode("latin-1") for n, v in headers if n in set(names)}
    verified = [_verifies(secret, body, given) for secret in secrets]
    return given.get("webhook-id") if any(verified) else None


def _verifies(secret: Secret, body: bytes, given: dict[str, str]) -> bool:
    try:
        Webhook(secret.text()).verify(body, given, json_parse=False)
    except (WebhookVerificationError, ValueError):
        return False
    return True
