"""Which tenant log events call for work, and for which.

The codes are those of https://github.com/auth0/auth0-log-schemas (Apache-2.0) and
https://auth0.com/docs/deploy-monitor/logs/log-event-type-codes. Real events lack fields that the
schemas require, so nothing but what is needed is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote

import msgspec

from worker.domain.event import Event, Trigger
from worker.events.facts import Origin, UnreadableError, text_of

# The sure sign that an identity provider was asked: Universal Login's name, then Classic's
# https://auth0.com/docs/deploy-monitor/logs/prompt-details-in-tenant-logs
_IDP_PROMPTS = frozenset(
    {
        "federated-authenticate",
        "oauth2-authenticate",
        "oidc-authenticate",
        "oauth1-authenticate",
        "saml-authenticate",
        "wsfed-authenticate",
    }
)
_WITHOUT_IDP = frozenset({"auth0", "sms", "email"})  # strategies that have no token to renew


class LogData(msgspec.Struct):
    """The fields of a log event that decide. Loosely typed: a strange one must not cost it."""

    type: str
    date: Any = None
    client_id: Any = None
    tenant_name: Any = None
    user_id: Any = None
    connection: Any = None
    connection_id: Any = None
    strategy: Any = None
    strategy_type: Any = None
    identity_user_id: Any = None
    description: Any = None
    details: msgspec.Raw = msgspec.Raw()
    log_id: Any = None
    id: Any = msgspec.field(default=None, name="_id")  # so named by GET /api/v2/logs


_details = msgspec.json.Decoder()


def events_of(data: LogData, origin: Origin) -> Iterable[Event]:
    """The events in one log record; none when it does not concern us.

    Raises: UnreadableError when it concerns us but cannot be understood.
    """
    decide = _DECISIONS.get(data.type)
    if decide is None or origin.tenant.excludes(data.tenant_name):
        return ()
    if _our_own(data, origin) and decide not in (_limit, _warning):
        return ()
    return decide(data, origin)


def _our_own(data: LogData, origin: Origin) -> bool:
    """Our own reads come back as `mgmt_api_read`; acting on them would never end."""
    ours = origin.tenant.own_client_id
    return ours is not None and (data.client_id == ours or data.user_id == f"{ours}@clients")


def _about(data: LogData) -> dict[str, Any]:
    return {
        "date": data.date,
        "connection": data.connection,
        "connection_id": data.connection_id,
        "strategy": data.strategy,
    }


def _login(data: LogData, origin: Origin) -> Iterator[Event]:
    """`s` and `ss`: only where an identity provider was asked, for only then are tokens new.

    A login over a live SSO session has no connection and empty prompts.
    """
    prompt = _idp_prompt(_object(data))
    if prompt is None:
        if not _may_have_asked(data, origin):
            return
        prompt = {}
    yield origin.event(
        Trigger.LOGIN,
        date=data.date,
        user_id=_required(data.user_id),
        connection=prompt.get("connection") or data.connection,
        connection_id=prompt.get("connection_id") or data.connection_id,
        strategy=prompt.get("strategy") or data.strategy,
        identity_user_id=prompt.get("identity") or data.identity_user_id,
    )


def _idp_prompt(details: dict[str, Any]) -> dict[str, Any] | None:
    prompts = details.get("prompts")
    for prompt in prompts if isinstance(prompts, list) else ():
        if isinstance(prompt, dict) and text_of(prompt.get("name")) in _IDP_PROMPTS:
            return prompt
    return None


def _may_have_asked(data: LogData, origin: Origin) -> bool:
    """No prompt says so: a database that brings tokens, or a record without prompts at all."""
    if text_of(data.connection) in origin.tenant.database_connections:
        return True
    untold = not isinstance(_object(data).get("prompts"), list)
    return untold and data.strategy_type in ("social", "enterprise")


def _native_login(data: LogData, origin: Origin) -> Iterator[Event]:
    """`sens`: the app brought the provider's token itself; there are no prompts."""
    if text_of(data.strategy) not in _WITHOUT_IDP:
        identity = data.identity_user_id
        yield origin.event(
            Trigger.LOGIN,
            user_id=_required(data.user_id),
            identity_user_id=identity,
            **_about(data),
        )


def _user_deleted(data: LogData, origin: Origin) -> Iterator[Event]:
    yield origin.event(
        Trigger.USER_DELETED, date=data.date, user_id=_required(data.user_id), detail=_code(data)
    )


def _management_write(data: LogData, origin: Origin) -> Iterator[Event]:
    """`sapi`. Its `user_id` is who wrote; who was written about stands in the path only."""
    method, path = _request(_object(data))
    match path:
        case ["users", user] if method in ("patch", "put"):
            yield origin.event(Trigger.USER_CHANGED, date=data.date, user_id=user)
        case ["users", user] if method == "delete":
            yield origin.event(Trigger.USER_DELETED, date=data.date, user_id=user)
        case ["users", user, "identities"] if method == "post":  # the linked one moves into `user`
            yield origin.event(Trigger.USER_CHANGED, date=data.date, user_id=user)
        case ["users", user, "identities", provider, identity] if method == "delete":
            yield origin.event(Trigger.USER_CHANGED, date=data.date, user_id=user)
            yield origin.event(  # unlinking makes a user of its own again
                Trigger.USER_CHANGED,
                date=data.date,
                part="unlinked",
                user_id=f"{provider}|{identity}",
            )
        case ["connections", connection_id] if method in ("patch", "put", "delete"):
            yield origin.event(
                Trigger.CONNECTION_CHANGED,
                date=data.date,
                connection_id=connection_id,
                detail={"method": method},
            )


def _scim(data: LogData, origin: Origin) -> Iterator[Event]:
    """`sscim`: the user stands in the path only, as the provider pushed the change."""
    method, path = _request(_object(data), root="/scim/v2/")
    if method not in ("post", "put", "patch", "delete"):
        return  # a provider that compares reads every user
    match path:
        case ["connections", connection_id, users, user] if users.lower() == "users" and user:
            whole = "|" in user  # else the provider's own id: whose it is the grants tell
            yield origin.event(
                Trigger.USER_DELETED if method == "delete" else Trigger.USER_CHANGED,
                date=data.date,
                user_id=user if whole else None,
                identity_user_id=None if whole else user,
                connection_id=connection_id,
            )


def _directory_sync(data: LogData, origin: Origin) -> Iterator[Event]:
    """Auth0 used the connection's admin token: worth a look at it, above all when it failed."""
    yield origin.event(Trigger.SYNC, detail=_code(data), **_about(data))


def _connected_account(data: LogData, origin: Origin) -> Iterator[Event]:
    """Token Vault took or gave up an account: its tokens may leave `identities` (or return)."""
    if data.user_id:
        yield origin.event(
            Trigger.USER_CHANGED, user_id=data.user_id, detail=_code(data), **_about(data)
        )


def _limit(data: LogData, origin: Origin) -> Iterator[Event]:
    yield origin.event(Trigger.TENANT_WARNED, date=data.date, detail=_code(data))


def _warning(data: LogData, origin: Origin) -> Iterator[Event]:
    """`depnote` naming our client: something we rely on is about to go."""
    ours = origin.tenant.own_client_id
    if ours and (data.client_id == ours or ours.encode() in bytes(data.details)):
        yield origin.event(Trigger.TENANT_WARNED, date=data.date, detail=_code(data))


def _code(data: LogData) -> dict[str, str]:
    return {"code": data.type}


def _required(user_id: Any) -> Any:
    if not user_id:
        raise UnreadableError("no user_id", code="no_user_id")
    return user_id


def _object(data: LogData) -> dict[str, Any]:
    details = _details.decode(data.details) if bytes(data.details) else {}
    return details if isinstance(details, dict) else {}


def _request(details: dict[str, Any], root: str = "/api/v2/") -> tuple[str, list[str]]:
    """Method in lower case and the decoded path segments below `root`.

    Whether Auth0 percent-encodes the path is not documented; an id with `|` reads right either
    way, because only whole segments are decoded.
    """
    request = details.get("request")
    request = request if isinstance(request, dict) else {}
    method, path = request.get("method"), request.get("path")
    if not isinstance(method, str) or not isinstance(path, str) or root not in path:
        raise UnreadableError("no method and path", code="no_request")
    below = path.partition(root)[2].partition("?")[0].rstrip("/")
    return method.lower(), [unquote(segment) for segment in below.split("/")]


_DECISIONS: dict[str, Callable[[LogData, Origin], Iterable[Event]]] = {
    "s": _login,
    "ss": _login,
    "sens": _native_login,
    "sdu": _user_deleted,
    "sapi": _management_write,
    "sscim": _scim,
    "directory_sync_completed": _directory_sync,
    "directory_sync_failed": _directory_sync,
    "connected_accounts_connection_succeeded": _connected_account,
    "connected_accounts_delete_succeeded": _connected_account,
    "api_limit": _limit,
    "api_limit_warning": _limit,
    "depnote": _warning,
}
