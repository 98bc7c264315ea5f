"""What keeps grants from being renewed on a connection that works, and what mends it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from worker.bootstrap.base import Base
from worker.cli.output import counted
from worker.domain.attempt import OTHER_ACCOUNT, USER_INACTIVE
from worker.domain.errors import NOT_WHAT_WE_WROTE, WorkerError
from worker.domain.exchange import ConnectionConfig
from worker.domain.grant import ExpiryKind, GrantState
from worker.domain.held import HeldGrant, parked, unreadable
from worker.providers.changes import near, sentence
from worker.store import outbox
from worker.store.connections import CLIENT_LOST
from worker.store.learning import LearningRepository
from worker.store.overview import Overview
from worker.sync import explain_problem

_OTHER_REASONS = {
    "no_access_token": "Auth0 stored no access token: the login has to be made anew.",
    USER_INACTIVE: (
        "These people have not logged in for so long that the provider lets the app see nothing of "
        "theirs any more, however fresh the token: only a login helps."
    ),
    **dict.fromkeys(
        NOT_WHAT_WE_WROTE,
        "What is stored of these refresh tokens, or of their keys, is not what was written, so "
        "they are not renewed: somebody or a disk changed it. Find out who; `evergrant grants "
        "explain` tells when it was found. A login brings another token.",
    ),
    OTHER_ACCOUNT: (
        "The provider answered with the tokens of another account; they are kept aside and handed "
        "to nobody. Look at `evergrant grants explain`, and let the person log in again."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """One cause on one connection."""

    provider: str
    reason: str
    told: str  # a sentence or two, with what to set in Auth0
    grants: int
    users: int

    @property
    def sentence(self) -> str:
        """With how many it concerns."""
        if not self.grants:
            return self.told
        people = f", {counted(self.users, 'user')}" if self.users else ""
        return f"{self.told} ({counted(self.grants, 'grant')}{people})"


def concerns(base: Base, tenant: str) -> dict[str, list[Concern]]:
    """By connection: grants that end and are not renewed; providers that have changed, or will."""
    configs = {config.name: config for config in base.connections().all(tenant)}
    found: dict[str, list[Concern]] = {}
    overview = Overview(base.engine)
    ended = (overview.unrenewable(tenant), overview.refused(tenant), overview.unreadable(tenant))
    for line in itertools.chain(*ended):
        config = configs.get(line.connection)
        if config is not None and (told := to_mend(base, config, line.provider, line.reason)):
            found.setdefault(line.connection, []).append(
                Concern(
                    provider=line.provider,
                    reason=line.reason,
                    told=told,
                    grants=line.grants,
                    users=line.users,
                )
            )
    for line in overview.entries(tenant):
        for told in _dated(base, configs.get(line.connection), line.provider):
            found.setdefault(line.connection, []).append(
                Concern(
                    provider=line.provider,
                    reason="provider_changes",
                    told=told,
                    grants=line.grants,
                    users=line.users,
                )
            )
    changes = LearningRepository(base.engine, tell=outbox.add).changes(tenant)
    for connection, sentences in changes.items():
        found.setdefault(connection, []).extend(
            Concern(provider="", reason="provider_changed", told=told, grants=0, users=0)
            for told in sentences
        )
    return found


def _dated(base: Base, config: ConnectionConfig | None, entry: str) -> list[str]:
    """What the provider has changed lately, or will before long."""
    today = base.clock.now().date()
    try:
        kind = base.catalogue.entry(entry, config).kind if config is not None else None
    except WorkerError:
        return []
    if kind is None:
        return []
    name = kind.entry.display_name
    return [f"{name} {sentence(one, today)}" for one in near(kind.entry.changes, today)]


def mending(base: Base, held: HeldGrant) -> str:
    """What would let one grant be renewed; "" where it is, or nothing is known."""
    if unreadable(held):
        return _OTHER_REASONS[str(held.last_error)]
    refused = parked(held) or held.state is GrantState.NEEDS_REAUTH
    if (held.renewable and not refused) or held.expiry is ExpiryKind.NEVER:
        return ""
    config = base.connections().get(held.key.tenant, held.key.connection)
    if config is None:
        return ""
    told = to_mend(base, config, held.provider, held.reason or "")
    overview, tenant = Overview(base.engine), held.key.tenant
    same = [
        line
        for line in (overview.refused(tenant) if refused else overview.unrenewable(tenant))
        if (line.connection, line.provider, line.reason)
        == (held.key.connection, held.provider, held.reason)
    ]
    others = sum(line.users for line in same) - 1
    if others < 1:
        return told
    many = "is" if others == 1 else "are"
    return f"{told} ({counted(others, 'other user')} of the connection {many} concerned)"


def to_mend(base: Base, config: ConnectionConfig, entry: str, reason: str) -> str:
    """Why a grant of that entry is not renewed, and what to set; "" where nothing is known.

    `reason`: as its row says: a code of ours, or the provider's word for its refusal.
    """
    try:
        provider = base.catalogue.entry(entry, config)
    except WorkerError as error:
        return str(error)
    if reason == "no_refresh_token":
        return provider.without_refresh_token
    if reason == "not_renewable" and config.client_lost:
        return explain_problem(CLIENT_LOST)
    if reason == "not_renewable":
        return provider.not_renewable or (
            "It could not be renewed when it was last read; as the connection is set up now it can "
            "be: `evergrant sync users` reads it again."
        )
    told = _OTHER_REASONS.get(reason, "") or provider.means(reason)
    if told and provider.heals(reason):
        told += f" Then: evergrant connections reopen {config.name} (else it is tried once a day)."
    return told
