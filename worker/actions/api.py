"""What a handler is given: the event, and what it may do about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn

from worker.actions.collaborators import Collaborators, Settings
from worker.domain.errors import NotFoundError, TransientError, WorkerError
from worker.domain.event import Event, Trigger
from worker.domain.ports import Notice
from worker.domain.secret import Secret
from worker.monitoring.logs import logger

_log = logger(__name__)

Subject = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionEvent:
    """What happened. Ids as told by the tenant: look things up, do not believe them (I22)."""

    trigger: str  # "login", "user_changed", …
    tenant: str
    id: str  # unique per tenant and source
    source: str  # "logs", "events", "actions", "queue", "poll", "cli", "ourselves"
    occurred_at: datetime | None
    user_id: str | None
    connection: str | None  # name
    connection_id: str | None
    strategy: str | None
    identity_user_id: str | None
    detail: Mapping[str, str]  # "reason", "grant", "code", …
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)


class PostponedError(Exception):
    """The handler wants to be run again, and nothing has failed."""

    def __init__(self, why: str, after: timedelta) -> None:
        super().__init__(why)
        self.why = why
        self.after = after


class Pulls:
    """The pulls of one batch: each subject once, for all events that were there before it.

    That one did not come off, or has to wait, is told to all of them as well: asking again for
    each would be a request, or a write, per event.

    A login also says which account's tokens must have come. Of the logins of one account the
    newest speaks for all; two accounts of one user are two wishes, which the puller joins.
    """

    def __init__(
        self, collaborators: Collaborators, gap: timedelta, events: Iterable[Event] = ()
    ) -> None:
        """`gap` lies between two pulls of one subject, whichever processes make them."""
        self._with = collaborators
        self._gap = gap
        self._newest: dict[Subject, Event] = {}
        self._waits: dict[Subject, timedelta] = {}  # none left: the pull is ours
        self._there: dict[Subject, bool] = {}
        self._failed: dict[Subject, WorkerError] = {}
        for event in events:
            if event.trigger is Trigger.LOGIN:
                subject = _account(event)
                if _later(event, self._newest.get(subject)):
                    self._newest[subject] = event

    async def user(self, tenant: str, user_id: str, login: Event | None) -> bool:
        """True: the user is there, read and merged. Raises: TransientError, PostponedError."""
        subject = (tenant, f"user:{user_id}")
        if login is None:
            return await self._once(subject, subject, lambda: self._with.pull.user(tenant, user_id))
        account = _account(login)
        newest = self._newest.get(account, login)
        there = await self._once(
            account, subject, lambda: self._with.pull.user(tenant, user_id, login=newest)
        )
        self._there[subject] = there  # whoever asks for no account in particular is served too
        return there

    async def connection(self, tenant: str, name: str) -> bool:
        subject = (tenant, f"connection:{name}")
        return await self._once(subject, subject, lambda: self._with.pull.connection(tenant, name))

    async def _once(
        self, wish: Subject, subject: tuple[str, str], pull: Callable[[], Awaitable[None]]
    ) -> bool:
        if wish in self._failed:
            raise self._failed[wish].with_traceback(None)
        if wish not in self._there:
            await self._reserve(subject)
            self._there[wish] = await self._came_off(wish, pull)
        return self._there[wish]

    async def _came_off(self, wish: Subject, pull: Callable[[], Awaitable[None]]) -> bool:
        cut_off = TransientError(f"{wish[0]}: took too long", code="timeout")
        self._failed[wish] = cut_off  # so it stays when the action runs out of time
        try:
            await pull()
        except NotFoundError:  # deleted, or linked away: an ordinary answer
            del self._failed[wish]
            return False
        except WorkerError as error:
            self._failed[wish] = error
            raise
        del self._failed[wish]
        return True

    async def _reserve(self, subject: tuple[str, str]) -> None:
        """Raises: PostponedError while somebody's last pull of the subject is too young."""
        if subject not in self._waits:
            reserve = self._with.reserve
            self._waits[subject] = await self._with.offload(reserve, *subject, gap=self._gap)
        if self._waits[subject] > timedelta(0):
            raise PostponedError("pulled a moment ago", self._waits[subject])


def _account(login: Event) -> Subject:
    told = (f"user:{login.user_id}", login.connection or "", login.identity_user_id or "")
    return (login.tenant, *told)


def _later(event: Event, than: Event | None) -> bool:
    if than is None or event.occurred_at is None or than.occurred_at is None:
        return than is None or than.occurred_at is None
    return event.occurred_at > than.occurred_at


class Api:
    """What a handler may do. Everything else it does on its own account."""

    def __init__(
        self,
        event: Event,
        *,
        action: str,
        memory: MutableMapping[str, Any],
        pulls: Pulls,
        collaborators: Collaborators,
        settings: Settings,
    ) -> None:
        self._event = event
        self._action = action
        self._pulls = pulls
        self._with = collaborators
        self._settings = settings
        self.memory = memory
        """A small JSON table of this handler's own, kept between tries of this event."""

    async def pull_user(self, user_id: str | None = None) -> bool:
        """Read the user at Auth0 and merge the tokens; False: there is no such user.

        Of the event's user unless another is named. Events that arrived together share one read.
        """
        user_id = user_id or await self._user()
        if user_id is None:
            return False
        login = self._event.trigger is Trigger.LOGIN and user_id == self._event.user_id
        told = self._event if login else None
        return await self._pulls.user(self._event.tenant, user_id, told)

    async def pull_connection(self, name: str | None = None) -> bool:
        """Read the connection at Auth0 anew: options, secrets, admin tokens; False: gone."""
        name = name or self._event.connection or await self._name_of(self._event.connection_id)
        return name is not None and await self._pulls.connection(self._event.tenant, name)

    async def sync_ended(self, *, failed: bool) -> None:
        """Note how a directory sync of the event's connection ended.

        A failure is shown to operators until one goes well, or an administrator consents again.
        """
        event, now = self._event, self._with.clock.now()
        name = event.connection or await self._name_of(event.connection_id)
        if name is not None:
            at = min(event.occurred_at or now, now)  # a clock of theirs must not outlive the truth
            await self._with.offload(self._with.synced, event.tenant, name, failed=failed, at=at)

    async def drop_user(self, user_id: str | None = None) -> bool:
        """Stop handing out a user's tokens, if Auth0 says twice, some time apart, that he is gone.

        True: it is stopped; his grants are ended after a quiet time, if he is not found under
        another user until then. False: the user lives, and was read anew; or no grant of his is
        here, and none a minute later either, so that Auth0 was not asked. In between the handler is
        run again later; nothing before this call should be repeated blindly.
        """
        tenant, user_id = self._event.tenant, user_id or await self._user()
        if not user_id:
            return False
        if not await self._with.offload(self._with.holds, tenant, user_id):
            self._later_unless("stranger_since", self._settings.stranger_after, "no grant is his")
            return False
        self.memory.pop("stranger_since", None)
        if await self._pulls.user(tenant, user_id, None):
            self.memory.pop("missing_since", None)
            return False
        confirmed = self._settings.confirm_deletion_after
        self._later_unless("missing_since", confirmed, "gone at the first look; looking again")
        await self._with.forget(tenant, user_id)
        return True

    def _later_unless(self, since: str, length: timedelta, why: str) -> None:
        """Raises: PostponedError, until it has been so for that long."""
        now = self._with.clock.now()
        began = datetime.fromisoformat(self.memory.setdefault(since, now.isoformat()))
        if (wait := began + length - now) > timedelta(0):
            raise PostponedError(why, wait)

    async def notify(self, kind: str, reason: str = "") -> None:
        """Tell apps and operators, once per event and kind; by exchange and signed webhook."""
        notice = Notice(
            tenant=self._event.tenant,
            kind=kind,
            episode=f"{kind}:{self._event.source}:{self._event.delivery_id}",
            user_id=self._event.user_id,
            reason=reason,
        )
        await self._with.offload(self._with.tell, [notice])

    async def brake(self) -> None:
        """Slow our own requests to the tenant for a minute: it has named its limit.

        Not for what is told late: the limit was reached then.
        """
        told, now = self._event.occurred_at, self._with.clock.now()
        if told is not None and now - told > self._settings.brake_for:
            return
        await self._with.offload(
            self._with.brake, self._event.tenant, for_=self._settings.brake_for
        )

    def again(self, why: str, *, after: float) -> NoReturn:
        """Be run again in `after` seconds at the soonest; counts as no failure."""
        raise PostponedError(why, timedelta(seconds=after))

    def log(self, message: str, **fields: Any) -> None:
        """One line in the worker's log, with the event's tenant and this action's name."""
        _log.info(message, tenant=self._event.tenant, action=self._action, **fields)

    async def _user(self) -> str | None:
        """The event's user; where it names only an account, whose grant is of that account."""
        event = self._event
        if event.user_id or not event.identity_user_id:
            return event.user_id
        name = event.connection or await self._name_of(event.connection_id)
        if name is None:
            return None
        owner = self._with.owner
        return await self._with.offload(owner, event.tenant, name, event.identity_user_id)

    async def _name_of(self, connection_id: str | None) -> str | None:
        """The name of a connection told by id; a new one's id stands for it, the puller knows."""
        if connection_id is None:
            return None
        tenant = self._event.tenant
        name = await self._with.offload(self._with.connection_name, tenant, connection_id)
        return name or connection_id
