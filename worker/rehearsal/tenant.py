"""The rehearsed Auth0 tenant: users, identities, connections, and what happens to them.

A state machine without HTTP. Each doing of a user or an admin is a method; it changes the state,
writes the log records and emits the events that Auth0 would. Sources of the shapes: see `records`.
"""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Callable
from typing import Any

from .families import Issued, RefusedError
from .records import Log, Record, action_body, api_details, cloud_event, iso, login_details
from .values import SECRET_OPTIONS, Connection, Identity, Login, NoSuchError, User

Clock = Callable[[], float]
Emit = Callable[[Record], None]


class Tenant:
    """Everything the tenant knows.

    Args:
        emit: receives each CloudEvent.
        on_login: receives the body of the post-login Action's call, before the login completes.
        visible_after_s: how long after the Action's call the new tokens can be read. That Actions
            run before the login completes is documented; the delay is the rehearsal's.
        index_delay_s: how long after a link the search, which is eventually consistent, shows it.
        keeps_refresh_token: whether a login that brings no refresh token leaves the stored one in
            place. Auth0 does not say; False is the harder case.
    """

    def __init__(
        self,
        *,
        domain: str,
        clock: Clock,
        random_: random.Random,
        emit: Emit,
        on_login: Callable[[Record], None],
        visible_after_s: float = 0.0,
        index_delay_s: float = 0.0,
        keeps_refresh_token: bool = False,
    ) -> None:
        self.domain = domain
        self.log = Log(tenant=domain.partition(".")[0], clock=clock)
        self.users: dict[str, User] = {}
        self.connections: dict[str, Connection] = {}  # by name
        self._accounts: dict[tuple[str, str], str] = {}  # (connection, subject) → user id
        self.visible_after_s = visible_after_s
        self.index_delay_s = index_delay_s
        self.keeps_refresh_token = keeps_refresh_token
        self.now = self._clock = clock
        self._random = random_
        self._emit = emit
        self._on_login = on_login

    # ------------------------------------------------------------ looking up

    def user(self, user_id: str) -> User:
        if user_id not in self.users:
            raise NoSuchError(f"no user {user_id}")
        return self.users[user_id]

    def connection(self, name: str) -> Connection:
        if name not in self.connections:
            raise NoSuchError(f"no connection {name}")
        return self.connections[name]

    def owner_of(self, connection: Connection, subject: str) -> User | None:
        """The user who has the account, on his own or linked in."""
        return self.users.get(self._accounts.get((connection.name, subject), ""))

    def user_id_of(self, connection: Connection, subject: str) -> str:
        """`strategy|subject`; strategies with many providers carry the connection's name too."""
        if connection.strategy in ("oauth2", "oidc", "okta"):
            return f"{connection.strategy}|{connection.name}|{subject}"
        return f"{connection.strategy}|{subject}"

    # ------------------------------------------------------------ logins

    def login(
        self, connection: str, subject: str, *, prompt_consent: bool = False, name: str = ""
    ) -> str:
        """A login through the identity provider; returns the Auth0 user id.

        The provider issues tokens, `identities[]` receives them, the log says `s` (and `ss` for a
        new user), the event streams `user.created` or `user.updated`.
        """
        via = self.connection(connection)
        started = self._clock()
        issued = via.provider.issuer.login(
            subject, via.options.get("client_id", ""), prompt_consent=prompt_consent
        )
        known = self.owner_of(via, subject)
        user = known or self._new_user(via, subject, name)
        login = Login(
            user=user,
            via=via,
            subject=subject,
            issued=issued,
            second=self._second(via, subject),
            started=started,
            new=known is None,
        )
        self._on_login(self._action_body(login))
        if self.visible_after_s:
            asyncio.get_running_loop().call_later(self.visible_after_s, self._complete, login)
        else:
            self._complete(login)
        return user.user_id

    def sso_login(self, user_id: str) -> None:
        """A login over a living session: no provider was asked, no token is new."""
        user = self.user(user_id)
        self._count_login(user)
        self.log.write(
            "s",
            "Successful login",
            connection_id="",
            strategy="",
            strategy_type="",
            user_id=user_id,
            user_name=user.email,
            details=login_details(
                started=self._clock(), ended=self._clock(), count=user.logins_count, prompt=None
            ),
        )

    # ------------------------------------------------------------ users

    def create_user(self, connection: str, subject: str, name: str = "") -> str:
        """A user who never logged in (import, SCIM, directory): no tokens."""
        via = self.connection(connection)
        user = self._new_user(via, subject, name)
        self._tell_user("user.created", user, via)
        return user.user_id

    def update_user(self, user_id: str, *, name: str = "", blocked: bool | None = None) -> None:
        """An admin's edit through the Management API."""
        user = self.user(user_id)
        user.name = name or user.name
        user.blocked = user.blocked if blocked is None else blocked
        user.updated_at = self._clock()
        self._write_api("patch", f"/api/v2/users/{user_id}", "Update a User", status=200)
        self._tell_user("user.updated", user)

    def delete_user(self, user_id: str) -> None:
        """Deletion through the Management API or the dashboard."""
        user = self.user(user_id)
        self._forget(user)
        via = self.connections.get(user.identities[0].connection) if user.identities else None
        self._write_api("delete", f"/api/v2/users/{user_id}", "Delete a User", status=204)
        self.log.write(
            "sdu",
            "User successfully deleted",
            **(via.log_fields() if via else {}),
            user_id=user_id,
            user_name=user.email,
        )
        self._tell_user("user.deleted", user, via)

    def link(self, primary: str, secondary: str) -> None:
        """The secondary's identity moves under the primary; the secondary user is no more."""
        first, second = self.user(primary), self.user(secondary)
        for identity in second.identities:
            identity.searchable_at = self._clock() + self.index_delay_s
            identity.profile_data = {"email": second.email, "name": second.name}
            self._accounts[identity.connection, identity.user_id] = primary
            first.identities.append(identity)
        del self.users[secondary]
        first.updated_at = self._clock()
        moved = second.identities[0]
        self._write_api(
            "post",
            f"/api/v2/users/{primary}/identities",
            "Link a User Account",
            status=201,
            body={"provider": moved.provider, "user_id": moved.user_id},
        )
        self._tell_user("user.deleted", second)
        self._tell_user("user.updated", first)

    def unlink(self, primary: str, connection: str, subject: str) -> str:
        """The identity becomes a new user without metadata; returns the id."""
        user, via = self.user(primary), self.connection(connection)
        moved = next(
            identity
            for identity in user.identities[1:]
            if (identity.connection, identity.user_id) == (connection, subject)
        )
        user.identities.remove(moved)
        moved.profile_data, moved.searchable_at = None, 0.0
        fresh = self._new_user(via, subject, "")
        fresh.identities = [moved]
        path = f"/api/v2/users/{primary}/identities/{moved.provider}/{subject}"
        self._write_api("delete", path, "Unlink a User Account", status=200)
        self._tell_user("user.updated", user)
        self._tell_user("user.created", fresh)
        return fresh.user_id

    # ------------------------------------------------------------ connections

    def add_connection(self, connection: Connection) -> None:
        self.connections[connection.name] = connection
        self._tell_connection("connection.created", connection)

    def patch_connection(self, name: str, options: Record | None = None, **top: Any) -> None:
        """`PATCH` as Auth0 does it: `options` are replaced whole, what is not sent is lost."""
        connection = self.connection(name)
        if options is not None:
            connection.options = options
        connection.top |= top
        self._write_api(
            "patch",
            f"/api/v2/connections/{connection.id}",
            "Update a connection",
            status=200,
            body={"options": {"client_secret": "REDACTED"}} if options else dict(top),
            secrets=["client_secret"] if options else None,
        )
        self._tell_connection("connection.updated", connection)

    def delete_connection(self, name: str) -> None:
        """The connection and the users who came through it."""
        connection = self.connections.pop(name)
        path = f"/api/v2/connections/{connection.id}"
        self._write_api("delete", path, "Delete a connection", status=204)
        self._tell_connection("connection.deleted", connection)
        for user in [u for u in self.users.values() if u.identities[0].connection == name]:
            self._forget(user)
            self._tell_user("user.deleted", user, connection)

    def consent_as_admin(self, name: str, admin: str) -> None:
        """The workspace admin consents: the connection receives the admin's tokens."""
        connection = self.connection(name)
        client_id = connection.options["client_id"]
        issued = connection.provider.issuer.login(admin, client_id, prompt_consent=True)
        connection.options |= self._admin_options(issued)

    def directory_sync(self, name: str, subjects: list[str] | None = None) -> bool:
        """Auth0 reads the directory with the admin's token, renewing it first.

        Returns whether it went well; users it finds have no tokens until they log in.
        """
        connection = self.connection(name)
        run = {"synchronization_id": f"sync_{self._id(16)}", "scheduled": True}
        fields = connection.log_fields()
        self.log.write(
            "directory_sync_started", "Inbound Directory Sync Started", **fields, details=run
        )
        try:
            issued = connection.provider.issuer.refresh(
                connection.options.get("admin_refresh_token", ""), connection.options["client_id"]
            )
        except RefusedError:
            failed = {**run, "sync_status": "failed", "error": "invalid_grant"}
            self.log.write(
                "directory_sync_failed", "Inbound Directory Sync Failed", **fields, details=failed
            )
            return False
        connection.options |= self._admin_options(issued)
        for subject in subjects or []:
            if self.owner_of(connection, subject) is None:
                self.create_user(name, subject)
        done = {**run, "sync_status": "completed", "completed_at": iso(self._clock())}
        self.log.write(
            "directory_sync_completed", "Inbound Directory Sync Completed", **fields, details=done
        )
        return True

    # ------------------------------------------------------------ inside

    def _new_user(self, via: Connection, subject: str, name: str) -> User:
        now = self._clock()
        local = "".join(char for char in subject if char.isalnum() or char in ".-_") or "user"
        user = User(
            user_id=self.user_id_of(via, subject),
            email=subject if "@" in subject else f"{local}@example.org",
            name=name or subject,
            created_at=now,
            updated_at=now,
        )
        user.identities.append(
            Identity(connection=via.name, provider=via.strategy, user_id=subject)
        )
        self.users[user.user_id] = user
        self._accounts[via.name, subject] = user.user_id
        return user

    def _forget(self, user: User) -> None:
        del self.users[user.user_id]
        for identity in user.identities:
            self._accounts.pop((identity.connection, identity.user_id), None)

    def _complete(self, login: Login) -> None:
        user, via, subject = login.user, login.via, login.subject
        if user.user_id not in self.users:
            return  # deleted in between
        self._count_login(user)
        vaulted = bool(via.as_json(options=False)["connected_accounts"].get("active"))
        for identity in user.identities:
            if (identity.connection, identity.user_id) == (via.name, subject) and not vaulted:
                self._write_tokens(identity, via, login.issued)
                identity.more = _nested(via, login.second)
        self._log_login(login)
        self._tell_user("user.created" if login.new else "user.updated", user, via)

    def _log_login(self, login: Login) -> None:
        user, via = login.user, login.via
        fields = {
            **via.log_fields(),
            "user_id": user.user_id,
            "user_name": user.email,
            "identity_user_id": login.subject,
        }
        if login.new:
            self.log.write("ss", "Success Signup", **fields)
        prompt = {
            "connection": via.name,
            "connection_id": via.id,
            "strategy": via.strategy,
            "identity": login.subject,
        }
        details = login_details(
            started=login.started, ended=self._clock(), count=user.logins_count, prompt=prompt
        )
        self.log.write("s", "Successful login", **fields, hostname=self.domain, details=details)

    def _second(self, via: Connection, subject: str) -> Issued | None:
        """The other pair that the same login brings, where the provider gives two."""
        if not via.provider.profile.second_pair_at:
            return None
        return via.provider.issuer.login(subject, via.options.get("client_id", ""))

    def _write_tokens(self, identity: Identity, via: Connection, issued: Issued) -> None:
        if not via.provider.profile.gives_tokens:
            return
        identity.access_token = issued.access_token
        identity.access_token_secret = via.provider.issuer.secret_of(issued.access_token)
        if issued.refresh_token is not None or not self.keeps_refresh_token:
            identity.refresh_token = issued.refresh_token
        told = via.provider.profile.expires and via.options.get("ext_expires_in", True)
        identity.expires_in = int(issued.lifetime) if told else None

    def _count_login(self, user: User) -> None:
        user.last_login = user.updated_at = self._clock()
        user.logins_count += 1

    def _admin_options(self, issued: Issued) -> Record:
        options = {
            "admin_access_token": issued.access_token,
            "admin_access_token_expiresin": iso(issued.issued_at + issued.lifetime),
        }
        if issued.refresh_token:
            options["admin_refresh_token"] = issued.refresh_token
        return options

    def _write_api(
        self,
        method: str,
        path: str,
        description: str,
        *,
        status: int,
        body: Record | None = None,
        secrets: list[str] | None = None,
    ) -> None:
        details = api_details(method, path.replace("|", "%7C"), status, body=body, secrets=secrets)
        self.log.write("sapi", description, user_id="auth0|rehearsalAdmin00000001", details=details)

    def _action_body(self, login: Login) -> Record:
        return action_body(
            tenant=self.domain.partition(".")[0],
            user_id=login.user.user_id,
            connection=login.via.context()["connection"],
            transaction_id=self._id(12),
            logins_count=login.user.logins_count + 1,
            at=self._clock(),
        )

    def _tell_user(self, type_: str, user: User, via: Connection | None = None) -> None:
        context = via.context() if via else {}
        self._tell(type_, user.as_json(tokens=False), context)

    def _tell_connection(self, type_: str, connection: Connection) -> None:
        body = connection.as_json(options=True)
        body["options"] = {
            name: value for name, value in connection.options.items() if name not in SECRET_OPTIONS
        }
        self._tell(type_, body, connection.context())

    def _tell(self, type_: str, object_: Record, context: Record) -> None:
        self._emit(
            cloud_event(
                id_=f"evt_{self._id(22)}",
                type_=type_,
                at=self._clock(),
                domain=self.domain,
                stream="est_rehearsal000000000001",
                object_=object_,
                context=context,
            )
        )

    def _id(self, length: int) -> str:
        return "".join(self._random.choices(string.ascii_letters + string.digits, k=length))


def _nested(via: Connection, second: Issued | None) -> Record:
    """As Slack's answer has the user's pair beside the bot's."""
    if second is None:
        return {}
    pair = {
        "access_token": second.access_token,
        "refresh_token": second.refresh_token,
        "expires_in": int(second.lifetime),
        "scope": second.scope,
        "token_type": "user",
    }
    return {via.provider.profile.second_pair_at: pair}
