"""The story `evergrant demo` tells: what users, admins and providers do to a tenant in a minute.

Only the control desk is used, as a person with curl could. What the product makes of it is not
looked at here; `Cast` says who should end how.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from .serving import StageClient

NAMES = (
    "rosa ingo mei tariq lena oskar priya juan freya kofi anya bruno chloe dario elif farid gwen "
    "hugo iris jonas kaya liam mona nils olga pavel quinn ruth sami tess umar vera wim xenia yara "
    "zane alma boris cleo dina"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One account that logs in."""

    connection: str
    subject: str
    user_id: str


@dataclass(slots=True)
class Cast:
    """Who took part, and who should end how."""

    members: list[Member] = field(default_factory=list)
    withdrawn: Member | None = None  # took the consent back: must end as needing a login
    relogged: Member | None = None  # logged in again: must go on with the new tokens
    deleted: Member | None = None  # must be handed out no more
    troubled: str | None = None  # the provider that misbehaved

    @property
    def living(self) -> list[Member]:
        """Whose access tokens must be fresh to the end."""
        return [one for one in self.members if one not in (self.withdrawn, self.deleted)]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens `at` seconds after the curtain rises."""

    at: float
    says: str
    does: Callable[[], object]


class Story:
    """The whole play.

    Args:
        seconds: from the first login to the last step's time to show its effect.
        users: accounts that log in, spread evenly over the tenant's connections.
        trouble_for: seconds for which one provider misbehaves.
        trouble: provider (by profile) that does; the requests it spoils are `share` of all.
    """

    def __init__(
        self,
        stage: StageClient,
        *,
        seconds: float,
        users: int = 40,
        trouble: str = "waad",
        trouble_for: float = 10.0,
        share: float = 0.6,
    ) -> None:
        self.cast = Cast(troubled=trouble)
        self._stage = stage
        self._seconds = seconds
        self._users = users
        self._trouble_for = trouble_for
        self._share = share
        self._connections = list(stage.about()["connections"].items())

    def play(
        self,
        tell: Callable[[str], None] = lambda text: None,
        *,
        stop: threading.Event | None = None,
    ) -> Cast:
        """Play in real time; returns early when `stop` is set."""
        stop = stop or threading.Event()
        begun = time.monotonic()
        for step in self.steps():
            if stop.wait(max(0.0, begun + step.at - time.monotonic())):
                return self.cast
            tell(step.says)
            step.does()
        stop.wait(max(0.0, begun + self._seconds - time.monotonic()))
        return self.cast

    def steps(self) -> Sequence[Step]:
        """Every step, in time."""
        return sorted(self._all_steps(), key=lambda step: step.at)

    # ------------------------------------------------------------ inside

    def _all_steps(self) -> Iterator[Step]:
        whole = self._seconds
        yield from self._logins(until=0.12 * whole)
        yield Step(0.13 * whole, "a user withdraws consent at the provider", self._withdraw)
        yield Step(0.20 * whole, "the workspace's directory is synchronised", self._sync)
        yield Step(0.25 * whole, "a user comes back over a living session", self._sso)
        yield Step(0.35 * whole, f"{self.cast.troubled} starts to misbehave", self._misbehave)
        yield Step(0.60 * whole, "a user logs in again", self._login_again)
        yield Step(0.75 * whole, "a user is deleted", self._delete)

    def _logins(self, until: float) -> Iterator[Step]:
        names = NAMES.split()
        for number in range(self._users):
            connection = self._connections[number % len(self._connections)][0]
            rounds, index = divmod(number, len(names))
            subject = names[index] + (str(rounds) if rounds else "")
            yield Step(
                until * number / self._users,
                f"{subject} logs in through {connection}",
                partial(self._login, connection, subject),
            )

    def _login(self, connection: str, subject: str) -> None:
        user_id = self._stage.login(connection, subject)
        member = Member(connection=connection, subject=subject, user_id=user_id)
        self.cast.members.append(member)

    def _withdraw(self) -> None:
        self.cast.withdrawn = member = self._somebody("google-oauth2")
        provider = dict(self._connections)[member.connection]["provider"]
        self._stage.do("withdraw_consent", provider=provider, subject=member.subject)

    def _sync(self) -> None:
        for name, about in self._connections:
            if about["strategy"] == "google-apps":
                self._stage.do("directory_sync", name=name, subjects=["newcomer@acme.example"])

    def _sso(self) -> None:
        self._stage.do("sso_login", user_id=self._somebody("acme-entra").user_id)

    def _misbehave(self) -> None:
        """Half of the trouble is 503, half HTML in the place of an answer."""
        for profile, share in (("unavailable", self._share / 2), ("html_502", self._share)):
            self._stage.do(
                "faults",
                provider=self.cast.troubled,
                profile=profile,
                share=share,
                for_seconds=self._trouble_for,
            )

    def _login_again(self) -> None:
        self.cast.relogged = member = self._somebody("acme-tracker")
        self._stage.login(member.connection, member.subject)

    def _delete(self) -> None:
        self.cast.deleted = member = self._somebody("github")
        self._stage.do("delete_user", user_id=member.user_id)

    def _somebody(self, connection: str) -> Member:
        """A member of `connection` who has no part of his own yet, else of any other."""
        taken = (self.cast.withdrawn, self.cast.relogged, self.cast.deleted)
        free = [one for one in self.cast.members if one not in taken]
        return next((one for one in free if one.connection == connection), free[0])
