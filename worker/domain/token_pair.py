"""An OAuth 1.0a token and its secret: useless apart, so sealed, moved and erased as one."""

from __future__ import annotations

from worker.domain.secret import Secret

_BETWEEN = b"\x00"  # in no token that came from outside


def joined(token: Secret, secret: Secret | None) -> Secret:
    """As it is kept; without a secret it is the token itself."""
    return token if secret is None else Secret(token.reveal() + _BETWEEN + secret.reveal())


def parted(kept: Secret) -> tuple[Secret, Secret | None]:
    """(token, its secret), of what `joined` made or of a plain token."""
    token, between, secret = kept.reveal().partition(_BETWEEN)
    return (Secret(token), Secret(secret)) if between and token and secret else (kept, None)
