"""Why an app does not get what it asked for: each says who can mend it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from worker.domain.errors import PermanentError, ReauthRequiredError, TransientError, WorkerError
from worker.domain.grant import GrantId
from worker.domain.held import Actor


class NeedsLoginError(ReauthRequiredError):
    """Nothing valid is left, and waiting brings nothing."""

    def __init__(self, *, reason: str, who: Actor, grant: GrantId) -> None:
        super().__init__(f"grant {grant}: {reason}", code="needs_reauth")
        self.reason = reason
        self.who = who
        self.grant = grant


class GoneError(PermanentError):
    """Given up or deleted: it does not come back. That says nothing of the provider."""

    def __init__(self, *, grant: GrantId, since: datetime | None = None) -> None:
        super().__init__(f"grant {grant} was given up", code="revoked")
        self.grant = grant
        self.since = since


class AwayError(TransientError):
    """The provider (or the operator's configuration) is in the way for now."""

    def __init__(
        self, *, code: str, reason: str, who: Actor | None, grant: GrantId, retry_after: timedelta
    ) -> None:
        super().__init__(f"grant {grant}: {reason}", code=code, retry_after=retry_after)
        self.reason = reason
        self.who = who
        self.grant = grant


class AmbiguousError(WorkerError):
    """The user has several accounts on this connection; `identity` picks one."""

    def __init__(self, identities: Sequence[str]) -> None:
        super().__init__("several accounts on one connection", code="identity_needed")
        self.identities = tuple(identities)


class ForbiddenVerbError(WorkerError):
    """The key may read this grant, so hiding it is pointless: it lacks a verb."""


class TooWideError(WorkerError):
    """Revoking this at the provider ends siblings of it; the asker has to want that."""

    def __init__(self, siblings: Sequence[GrantId], *, hidden: int = 0) -> None:
        count = len(siblings) + hidden
        super().__init__(
            f"the provider ends the whole consent, and with it {count} more living grants of the "
            "same accounts and client",
            code="revocation_too_wide",
        )
        self.siblings = tuple(siblings)
        self.hidden = hidden  # as many more, which the asker may not end
