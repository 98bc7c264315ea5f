"""What an entry needs beyond data: at most one named hook, pure functions over request and answer.

Everything else that looks special is a client authentication (`client_auth`) or a placeholder
(`filling`). A hook is added here, by name, and an entry refers to it; an unknown name stops the
start.

introspect_expiry
    The answer names no lifetime; the provider tells it when asked about the access token
    (RFC 7662), at the entry's `introspection_endpoint`. Salesforce is the case: a token lives as
    long as the org's session time-out.
"""

from __future__ import annotations

from datetime import datetime

from worker.domain.exchange import Answered, ConnectionConfig, WireRequest
from worker.domain.secret import Secret
from worker.providers import asking, client_auth, expiry, paths, templates
from worker.providers.salvage import parsed
from worker.providers.vocabulary import Entry
from worker.providers.wire import Surroundings, check_pinned, lookup, wired

INTROSPECT = "introspect_expiry"
HOOKS = frozenset({INTROSPECT})


def introspection(
    entry: Entry,
    connection: ConnectionConfig,
    around: Surroundings,
    *,
    access_token: Secret,
    now: datetime,
) -> WireRequest | None:
    """The question when an access token ends; None where the entry asks none.

    It goes to the host the refresh went to: an access token is sent nowhere else (I13).
    Raises: ConfigurationError.
    """
    if entry.hook != INTROSPECT:
        return None
    url = templates.fill_url(entry.introspection_endpoint, lookup(entry, connection, around))
    meant = asking.audience(entry, connection, around, url)
    proof = client_auth.prove(entry, connection, audience=meant, now=now)
    params = {"token": access_token.text(), "token_type_hint": "access_token", **proof.params}
    asked = wired(
        "POST", url, connection, around, params=params, headers=proof.headers, body="form"
    )
    check_pinned(asked, connection)
    return asked


def read_introspection(answer: Answered, *, now: datetime) -> datetime | None:
    """The end that was told (`exp`, RFC 7662 §2.2); None where none was. Never raises."""
    content = parsed(answer)
    if answer.status != 200 or content is None or content.get("active") is not True:
        return None
    ends = expiry.moment("epoch", paths.first_at(content, ["exp"]), now)
    return ends if ends is not None and ends > now else None
