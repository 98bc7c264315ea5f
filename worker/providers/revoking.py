"""Builds the request that ends a consent at the provider, and judges the answer to it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from worker.domain.exchange import Answered, ConnectionConfig, RevocationVerdict, WireRequest
from worker.domain.secret import Secret
from worker.domain.token_pair import parted
from worker.providers import asking, client_auth, oauth1, reading, templates
from worker.providers.client_auth import Proof
from worker.providers.salvage import parsed
from worker.providers.vocabulary import Entry
from worker.providers.wire import (
    Surroundings,
    check_pinned,
    custom_headers,
    filled,
    lookup,
    wired,
)


def request(
    entry: Entry,
    connection: ConnectionConfig,
    around: Surroundings,
    *,
    access_token: Secret | None,
    refresh_token: Secret | None,
    now: datetime,
) -> WireRequest | None:
    """None where there is nothing to ask, or not with what we hold. Raises: ConfigurationError."""
    revoke = entry.revoke
    kept, hint = _chosen(entry, access_token, refresh_token)
    token, token_secret = parted(kept) if kept else (None, None)
    url = endpoint(entry, connection, around, token) if token else None
    if token is None or url is None:
        return None
    if revoke.auth == "oauth1":
        if token_secret is None:
            return None  # from before its secret was kept: nobody can sign with it
        signed = oauth1.authorization(
            revoke.method, url, connection, token=token, token_secret=token_secret, now=now
        )
        proof = Proof(headers={"authorization": signed})
    else:
        meant = asking.audience(entry, connection, around, url)
        proof = _proof(entry, connection, meant, token, now)
    params = {
        **({revoke.token_param: token.text()} if revoke.token_param else {}),
        **({"token_type_hint": hint} if revoke.type_hint else {}),
        **proof.params,
        **filled(revoke.extra_params, lookup(entry, connection, around)),
    }
    body = None if revoke.body == "none" else revoke.body
    asked = wired(
        revoke.method, url, connection, around, params=params, headers=proof.headers, body=body
    )
    if f"://{asked.host}/" not in revoke.endpoint:  # the catalogue's own word needs no pin
        check_pinned(asked, connection)
    return asked


def endpoint(
    entry: Entry, connection: ConnectionConfig, around: Surroundings, token: Secret | None = None
) -> str | None:
    """Where to ask; None: nowhere, or (an OpenID provider) nobody has told us."""
    if not entry.revoke.endpoint:
        return None
    more = {"token": token.text() if token else "token"}
    try:
        return templates.fill_url(
            entry.revoke.endpoint, lookup(entry, connection, around, more=more)
        )
    except templates.MissingValueError:
        return None


def by_hand(entry: Entry) -> str:
    """Where a person ends it. Where that is not established, that is said."""
    return entry.revoke.by_hand or (
        f"not established for {entry.display_name}; look in the account's settings there, under "
        "connected or authorised apps"
    )


def read(entry: Entry, answer: Answered) -> RevocationVerdict:
    """Judge the answer. Never raises.

    RFC 7009 §2.2 answers 200 for a token that was dead already, with a body of no meaning; others
    refuse it with a word. A page of a proxy or of maintenance says nothing, whatever its status. A
    client that is refused can be mended: it is asked again until patience ends.
    """
    accepted, codes = reading.words(entry, answer)
    page = bool(answer.body.strip()) and reading.is_page(answer)
    if reading.is_busy(answer) or (accepted and page):
        return RevocationVerdict.TRANSIENT
    if not accepted and {*_CLIENT_IS_WRONG, *entry.errors.config} & {*codes}:
        return RevocationVerdict.TRANSIENT
    if accepted and not _denied(answer):
        return RevocationVerdict.REVOKED
    dead = {"invalid_token", *entry.revoke.done_codes}
    return RevocationVerdict.REVOKED if dead & {*codes} else RevocationVerdict.REFUSED


def _denied(answer: Answered) -> bool:
    """Whether a 2xx says no: an error beside it, or a success that is false."""
    content = parsed(answer)
    if not isinstance(content, dict):
        return False
    erred = any(content.get(key) for key in ("error", "error_code", "errors"))
    return erred or any(content.get(key) in _NO for key in _SUCCESS)


_CLIENT_IS_WRONG = ("invalid_client", "unauthorized_client")
_SUCCESS = ("ok", "success", "result", "revoked", "status")
_NO = (False, "false", "0", "failure", "error")


def _chosen(
    entry: Entry, access_token: Secret | None, refresh_token: Secret | None
) -> tuple[Secret | None, str]:
    """The token that is sent, and its name for RFC 7009's hint."""
    wanted = entry.revoke.token
    if wanted == "refresh_token" or (wanted == "refresh_or_access" and refresh_token):
        return refresh_token, "refresh_token"
    return access_token, "access_token"


def _proof(
    entry: Entry, connection: ConnectionConfig, audience: str, token: Secret, now: datetime
) -> Proof:
    auth = entry.revoke.auth
    if auth == "bearer":
        return Proof(headers={"authorization": f"Bearer {token.text()}"})
    if auth == "client_id":
        return Proof(params={entry.client_id_param: connection.client_id or ""})
    if auth == "anonymous":
        return Proof()
    proved = msgspec.structs.replace(entry, client_auth="basic") if auth == "basic" else entry
    proof = client_auth.prove(proved, connection, audience=audience, now=now)
    return Proof(params=proof.params, headers=custom_headers(connection) | proof.headers)
