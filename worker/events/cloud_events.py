"""CloudEvents of Auth0's Event Streams, our Action's own message, and raw queue messages.

Types: https://auth0.com/docs/customize/events/event-types. None of them carries tokens, and what
they say about a user is not believed: only the id is taken (I22).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from worker.domain.event import Event, Trigger
from worker.events.facts import Origin, UnreadableError, text_of

_WITHOUT_IDP = frozenset({"auth0", "sms", "email"})
_USER = {
    "user.created": Trigger.USER_CHANGED,
    "user.updated": Trigger.USER_CHANGED,
    "user.deleted": Trigger.USER_DELETED,
}
_CONNECTION = frozenset({"connection.created", "connection.updated", "connection.deleted"})
_FROM_OUTSIDE = {  # what a producer on the queue may ask for; grant_… triggers are ours alone
    f"evergrant.{trigger}": trigger
    for trigger in (
        Trigger.LOGIN,
        Trigger.USER_CHANGED,
        Trigger.USER_DELETED,
        Trigger.CONNECTION_CHANGED,
        Trigger.SYNC,
    )
}


class Reference(msgspec.Struct):
    """A user, or a connection: the ids of it that an event may carry."""

    user_id: Any = None
    id: Any = None
    name: Any = None
    strategy: Any = None


class CloudData(msgspec.Struct):
    object: Reference | None = None
    data: msgspec.Raw = msgspec.Raw()  # once more around it, so in samples of Event Stream Actions
    # the flat form of our own types
    user_id: Any = None
    connection: Any = None
    connection_id: Any = None
    strategy: Any = None
    identity_user_id: Any = None


class ActionMessage(msgspec.Struct):
    """What the Action that we ship sends; `docs/snippets` has its source."""

    kind: str
    user_id: Any = None
    tenant: Any = None
    connection: Reference | None = None
    client_id: Any = None
    protocol: Any = None
    at: Any = None


_cloud_data = msgspec.json.Decoder(CloudData)


def events_of(kind: Any, time: Any, data: msgspec.Raw, origin: Origin) -> Iterator[Event]:
    """The event in one CloudEvent; none when its type does not concern us."""
    if not isinstance(kind, str):
        raise UnreadableError("a CloudEvent without a type", code="no_type")
    kind = kind.removeprefix("com.auth0.")  # so in one table of the documentation
    if kind in _USER:
        about = _subject(data)
        yield origin.event(_USER[kind], date=time, user_id=_required(about.user_id))
    elif kind in _CONNECTION:
        about = _subject(data)
        yield origin.event(
            Trigger.CONNECTION_CHANGED,
            date=time,
            connection=about.name,
            connection_id=_required(about.id or about.name) and about.id,
            strategy=about.strategy,
            detail={"method": "delete"} if kind.endswith("deleted") else None,
        )
    elif kind in _FROM_OUTSIDE:
        yield _outside(_FROM_OUTSIDE[kind], time, _cloud_data.decode(data), origin)


def of_action(message: ActionMessage, origin: Origin) -> Iterator[Event]:
    """A login, unless it was none at an identity provider.

    A post-login Action runs at the exchange of an Auth0 refresh token too.
    """
    connection = message.connection or Reference()
    if message.kind != "post-login" or message.protocol == "oauth2-refresh-token":
        return
    if origin.tenant.excludes(message.tenant):
        return
    named = text_of(connection.name) in origin.tenant.database_connections
    if text_of(connection.strategy) in _WITHOUT_IDP and not named:
        return
    yield origin.event(
        Trigger.LOGIN,
        date=message.at,
        user_id=_required(message.user_id),
        connection=connection.name,
        connection_id=connection.id,
        strategy=connection.strategy,
    )


def _outside(trigger: Trigger, time: Any, data: CloudData, origin: Origin) -> Event:
    of_user = trigger in (Trigger.LOGIN, Trigger.USER_CHANGED, Trigger.USER_DELETED)
    _required(data.user_id if of_user else data.connection or data.connection_id)
    return origin.event(
        trigger,
        date=time,
        user_id=data.user_id,
        connection=data.connection,
        connection_id=data.connection_id,
        strategy=data.strategy,
        identity_user_id=data.identity_user_id,
    )


def _subject(data: msgspec.Raw) -> Reference:
    told = _cloud_data.decode(data)
    if told.object is None and bytes(told.data):
        told = _cloud_data.decode(told.data)
    return told.object or Reference()


def _required(value: Any) -> Any:
    if not value:
        raise UnreadableError("no id of whom it is about", code="no_id")
    return value
