"""Every failure the worker can name. The branch says who can mend it.

WorkerError
├── TransientError         time: try again after `retry_after`, or by backoff
│   └── KeyringError           a key of ours is not there now: no grant is to blame
├── ReauthRequiredError    the user: stop renewing, tell the app
└── PermanentError         us: park the work, wake someone
    ├── ConfigurationError     the operator: a setting, a scope, a client secret
    └── TamperError            somebody changed what we stored: nothing is served from it

Messages carry ids and codes, never tokens.
"""

from __future__ import annotations

from datetime import timedelta


class WorkerError(Exception):
    """Whatever the worker can name; `code` is stable, lower case, with underscores."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or type(self).__name__.removesuffix("Error").lower()


class TransientError(WorkerError):
    """Time mends it. `retry_after` is what the other side asked for, if it did."""

    def __init__(
        self, message: str, *, code: str = "", retry_after: timedelta | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class KeyringError(TransientError):
    """A keyring does not open, or lacks a key: whoever mends it need not tell us, we look again."""


class ReauthRequiredError(WorkerError):
    """Only a login of the user mends it."""


class NotFoundError(WorkerError):
    """What was asked for is not there, or not for the asker to see: both read alike."""


class PermanentError(WorkerError):
    """Retrying cannot mend it; somebody has to look."""


class ConfigurationError(PermanentError):
    """The operator mends it; the message says where and how."""


class TamperError(PermanentError):
    """A ciphertext or an audit record is not what we wrote."""


NOT_WHAT_WE_WROTE = frozenset({"not_ours", "does_not_open", "wrong_purpose"})
"""Codes of it, where a grant's refresh token or its key does not open."""
