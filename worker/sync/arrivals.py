"""From what Auth0 answered to what is merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from worker.auth0 import Connection, Identity, User
from worker.auth0.answers import Pair, secret, words
from worker.domain.event import Event
from worker.domain.exchange import ConnectionConfig, Lifetimes
from worker.domain.grant import ExpiryKind, GrantKey, GrantPart
from worker.domain.merge import Arrival
from worker.domain.ports import Catalogue
from worker.domain.schedule import of_a_login
from worker.domain.secret import Secret
from worker.domain.token_pair import joined

# An event's time and `last_login` are written by different machines of Auth0's.
_SKEW = timedelta(minutes=2)
_PREFIX = 8  # characters of an access token that tell its kind, "gho_" for instance
_LOST = "Auth0 has lost the connection's client: whose these tokens are is not known."
_NO_LIFETIMES = Lifetimes(
    access=None, refresh=None, refresh_idle=None, margin=None, not_before=None, keepalive=None
)


def of_identity(
    tenant: str,
    user: User,
    identity: Identity,
    *,
    connection: ConnectionConfig | None,
    catalogue: Catalogue,
    logins: Iterable[Event],
    now: datetime,
) -> Sequence[Arrival]:
    """One identity's copy: a pair of tokens as a rule, a bot's and the person's where one login
    brought both (Slack). `connection` None: it holds no tokens, so its client is not asked."""
    read = partial(
        _of_pair,
        tenant,
        user,
        connection=connection,
        catalogue=catalogue,
        logins=tuple(logins),
        now=now,
    )
    own = _own_pair(identity, connection, catalogue)
    if own is None:
        return [read(identity)]
    mine = replace(
        identity,
        access_token=own.access_token,
        refresh_token=own.refresh_token,
        expires_in=own.expires_in,
        scope=own.scope,
    )
    return [read(mine), read(identity, part=GrantPart.BOT)]


def _own_pair(
    identity: Identity, connection: ConnectionConfig | None, catalogue: Catalogue
) -> Pair | None:
    """The person's own pair where it lies deeper; None: it lies at the top, alone."""
    if connection is None or not identity.pairs:
        return None
    return identity.pairs.get(catalogue.resolve(connection, has_refresh_token=True).user_pair_at)


def _of_pair(
    tenant: str,
    user: User,
    identity: Identity,
    *,
    connection: ConnectionConfig | None,
    catalogue: Catalogue,
    logins: Iterable[Event],
    now: datetime,
    part: GrantPart = GrantPart.USER,
) -> Arrival:
    key = GrantKey(
        tenant=tenant,
        connection=identity.connection,
        identity_user_id=identity.user_id,
        part=part,
    )
    if connection is None or (identity.access_token is None and identity.refresh_token is None):
        return _empty(key, user.user_id, identity.provider, user)
    return _arrival(
        key,
        connection,
        catalogue,
        user_id=user.user_id,
        access_token=identity.access_token,
        refresh_token=identity.refresh_token,
        token_secret=identity.access_token_secret,
        expires_in=identity.expires_in,
        issued_at=login_time(user, identity, logins, now=now),
        scope=identity.scope,
        user=user,
        now=now,
    )


def of_admin(
    connection: Connection, config: ConnectionConfig, *, catalogue: Catalogue, now: datetime
) -> Arrival:
    """The tokens of the administrator who consented, as `google-apps` has them.

    Looked for by these names in every strategy; no other field is known to hold any. Auth0 itself
    renews this access token, and tells when it ends but never when it was issued.
    """
    options: Mapping[str, Any] = connection.options or {}
    access, refresh = admin_tokens(options)
    key = GrantKey(
        tenant=config.tenant,
        connection=config.name,
        identity_user_id=connection.id or connection.name,
        part=GrantPart.ADMIN,
    )
    if access is None and refresh is None:
        return _empty(key, None, config.strategy, None)
    ends_at = options.get("admin_access_token_expiresin")  # an instant, for all its name
    return _arrival(
        key,
        config,
        catalogue,
        user_id=None,
        access_token=access,
        refresh_token=refresh,
        expires_in=ends_at,
        issued_at=None,
        scope=words(options.get("admin_scope")),
        now=now,
    )


def admin_tokens(options: Mapping[str, Any] | None) -> tuple[Secret | None, Secret | None]:
    """(access token, refresh token) of a connection's administrator."""
    found = options or {}
    return secret(found.get("admin_access_token")), secret(found.get("admin_refresh_token"))


def login_time(
    user: User, identity: Identity, logins: Iterable[Event], *, now: datetime
) -> datetime | None:
    """The best evidence of when the identity's tokens were issued; None: there is none.

    `expires_in` counts from the exchange at the provider, and Auth0 does not say when that was.
    An event tells, if it names this identity (or the connection, and no other account of the user
    is there) and the user Auth0 shows has logged in no earlier (an event may be forged, and a time
    too late would keep a dead token for a living one).
    `last_login` tells if there is but one identity it can have been. Never "now".
    """
    ceiling = min(now, user.last_login + _SKEW) if user.last_login else now
    alone = sum(one.connection == identity.connection for one in user.identities) == 1
    named = [login for login in logins if alone or login.identity_user_id is not None]
    told = [at for login in named if (at := _told(login, identity)) and at <= ceiling]
    if told:
        return max(told)
    if len(user.identities) == 1 and user.last_login is not None:
        return min(user.last_login, now)
    return None


def concerns(login: Event, identity: Identity) -> bool:
    """Whether a login event is about this identity."""
    if login.connection is None or login.connection != identity.connection:
        return False
    return login.identity_user_id in (None, identity.user_id)


def _told(login: Event, identity: Identity) -> datetime | None:
    return login.occurred_at if concerns(login, identity) else None


def _arrival(
    key: GrantKey,
    connection: ConnectionConfig,
    catalogue: Catalogue,
    *,
    user_id: str | None,
    access_token: Secret | None,
    refresh_token: Secret | None,
    token_secret: Secret | None = None,
    expires_in: object,
    issued_at: datetime | None,
    scope: str | None,
    user: User | None = None,
    now: datetime,
) -> Arrival:
    provider = catalogue.resolve(
        connection,
        has_refresh_token=refresh_token is not None,
        access_token_prefix=access_token.text()[:_PREFIX] if access_token else "",
        expires_told=expires_in is not None,
    )
    kind, expires_at, lifetimes = ExpiryKind.UNTOLD, None, provider.lifetimes
    if access_token is not None:
        told = provider.read_imported(
            access_token=access_token,
            refresh_token=refresh_token,
            expires_in=expires_in,
            issued_at=issued_at,
            now=now,
        )
        kind, expires_at = ExpiryKind(told.kind), told.expires_at
        lifetimes = of_a_login(lifetimes) if told.first else lifetimes
    required = connection.overrides.get("required_scopes")
    return Arrival(
        key=key,
        user_id=user_id,
        strategy=connection.strategy,
        provider=provider.name,
        spends=provider.spends,
        not_renewable=provider.not_renewable or (_LOST if connection.client_lost else None),
        lifetimes=lifetimes,
        access_token=joined(access_token, token_secret) if access_token else None,
        refresh_token=refresh_token,
        scope=scope,
        issued_at=issued_at,
        expiry=kind,
        expires_at=expires_at,
        login=user.login if user else None,
        last_login=user.last_login if user else None,
        required=frozenset(required) if isinstance(required, list | tuple | set) else frozenset(),
    )


def _empty(key: GrantKey, user_id: str | None, strategy: str, user: User | None) -> Arrival:
    return Arrival(
        key=key,
        user_id=user_id,
        strategy=strategy,
        provider="",
        spends="",
        not_renewable=None,
        lifetimes=_NO_LIFETIMES,
        access_token=None,
        refresh_token=None,
        scope=None,
        issued_at=None,
        expiry=ExpiryKind.UNTOLD,
        expires_at=None,
        login=user.login if user else None,
    )
