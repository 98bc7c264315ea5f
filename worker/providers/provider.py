"""One entry of the catalogue on one connection: what the engine calls a provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property

from worker.domain.exchange import (
    Answered,
    ConnectionConfig,
    Lifetimes,
    Limits,
    Reading,
    RevocationVerdict,
    Rotation,
    Salvaged,
    WireRequest,
)
from worker.domain.learned import shorter
from worker.domain.ports import ImportedExpiry
from worker.domain.secret import Secret
from worker.providers import asking, explain, hooks, imported, reading, refusals, revoking
from worker.providers.salvage import salvage
from worker.providers.vocabulary import Entry, duration
from worker.providers.wire import Surroundings

_CLASSES = {
    "none": Rotation.N,
    "sliding": Rotation.M,
    "single_use_grace": Rotation.G,
    "single_use": Rotation.S,
    "unknown": Rotation.F,
}
_FORMS_KEPT = 64  # scopes of one connection are few


class Kind:
    """An entry, ready for use: what does not depend on the connection is worked out once."""

    def __init__(self, name: str, entry: Entry) -> None:
        self.name = name
        self.entry = entry

    @cached_property
    def meanings(self) -> Mapping[str, reading.Meaning]:
        return reading.meanings(self.entry.errors)

    @cached_property
    def rotation(self) -> Rotation:
        """INVARIANTS-class of the entry; where a reuse is known to revoke the family, F."""
        entry = self.entry
        if entry.grant == "none" or entry.subject == "access_token":
            return Rotation.N
        if entry.rotation == "single_use" and entry.reuse_revokes_family:
            return Rotation.F
        return _CLASSES[entry.rotation]

    @cached_property
    def grace_seconds(self) -> float:
        grace = duration(self.entry.rotation_grace)
        return grace.total_seconds() if grace and self.rotation is Rotation.G else 0.0

    @cached_property
    def lifetimes(self) -> Lifetimes:
        lives, timing = self.entry.lifetimes, self.entry.timing
        active_within = duration(timing.active_within)
        return Lifetimes(
            access=duration(lives.access),
            refresh=duration(lives.refresh) or active_within,
            refresh_idle=duration(lives.idle),
            margin=duration(timing.margin),
            not_before=duration(timing.not_before),
            keepalive=duration(timing.keepalive),
            max_early=duration(timing.max_early),
            refresh_fixed=lives.refresh_from == "login" or active_within is not None,
            first=duration(first.lives) if (first := self.entry.first) else None,
            active_within=active_within,
        )

    @cached_property
    def limits(self) -> Limits:
        limits = self.entry.limits
        return Limits(
            concurrency=limits.concurrency,
            per_second=limits.per_second,
            gap=duration(limits.gap),
        )


class CatalogueProvider:
    """Meets `domain.ports.Provider`; immutable."""

    def __init__(self, kind: Kind, connection: ConnectionConfig, around: Surroundings) -> None:
        self.kind = kind
        self.connection = connection
        self.around = around
        self._forms: dict[str | None, asking.Form | None] = {}  # by scope

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def rotation(self) -> Rotation:
        return self.kind.rotation

    @property
    def grace_seconds(self) -> float:
        return self.kind.grace_seconds

    @property
    def always_rotates(self) -> bool:
        return self.kind.entry.rotation == "single_use"

    @property
    def may_repeat(self) -> bool:
        return self.kind.entry.may_repeat

    @cached_property
    def lifetimes(self) -> Lifetimes:
        """The entry's; where no end is told, no longer than this connection has shown."""
        declared, learned = self.kind.lifetimes, self.connection.learned.life
        return replace(declared, access=shorter(declared.access, learned)) if learned else declared

    @property
    def limits(self) -> Limits:
        return self.kind.limits

    @property
    def spends(self) -> str:
        entry = self.kind.entry
        if entry.grant == "none":
            return ""
        return "rt" if entry.subject == "refresh_token" else "at"

    def means(self, code: str) -> str:
        """What a refusal's code says to a person; "" where that is not known.

        A code is told as read: the provider's word, and the number that stood beside it.
        """
        told = self.kind.entry.errors.told
        return next((told[word] for word in (code, *code.split()[::-1]) if word in told), "")

    def heals(self, code: str) -> bool:
        """Whether an act of the provider's administrator revives what that code refused."""
        return any(word in self.kind.entry.errors.heals for word in code.split())

    @cached_property
    def not_renewable(self) -> str | None:
        return refusals.refusal(self.kind.entry, self.connection, self.around)

    @cached_property
    def without_refresh_token(self) -> str:
        return explain.without_refresh_token(self.kind.entry, self.connection)

    def request(
        self,
        connection: ConnectionConfig,
        *,
        subject: Secret,
        scope: str | None,
        now: datetime,
        first: bool = False,
    ) -> WireRequest:
        def ask(token: Secret) -> WireRequest:
            return asking.refresh(
                self.kind.entry,
                connection,
                self.around,
                subject=token,
                scope=scope,
                now=now,
                first=first,
                url=self._endpoint if connection is self.connection else None,
            )

        special = first and self.kind.entry.first is not None
        if special or connection is not self.connection:
            return ask(subject)
        if scope not in self._forms:
            if len(self._forms) >= _FORMS_KEPT:
                self._forms.clear()
            self._forms[scope] = asking.form(self.kind.entry, connection, ask)
        form = self._forms[scope]
        return ask(subject) if form is None else form.spending(subject)

    @cached_property
    def _endpoint(self) -> str:
        return asking.endpoint(self.kind.entry, self.connection, self.around)

    def salvage(self, answer: Answered) -> Salvaged:
        return salvage(answer, self.kind.entry.response_map)

    def read(self, answer: Answered, *, asked_at: datetime) -> Reading:
        return reading.read(self.kind.entry, self.kind.meanings, answer, asked_at=asked_at)

    def read_imported(
        self,
        *,
        access_token: Secret,
        refresh_token: Secret | None,
        expires_in: object,
        issued_at: datetime | None,
        now: datetime,
    ) -> ImportedExpiry:
        return imported.read(
            self.kind.entry,
            access_token=access_token,
            refresh_token=refresh_token,
            expires_in=expires_in,
            issued_at=issued_at,
            now=now,
        )

    @property
    def user_pair_at(self) -> str:
        return self.kind.entry.user_pair_at

    @property
    def introspects(self) -> bool:
        return self.kind.entry.hook == hooks.INTROSPECT

    def introspection(
        self, connection: ConnectionConfig, *, access_token: Secret, now: datetime
    ) -> WireRequest | None:
        return hooks.introspection(
            self.kind.entry, connection, self.around, access_token=access_token, now=now
        )

    def read_introspection(self, answer: Answered, *, now: datetime) -> datetime | None:
        return hooks.read_introspection(answer, now=now)

    @property
    def revocation_effect(self) -> str:
        has = revoking.endpoint(self.kind.entry, self.connection, self.around)
        return self.kind.entry.revoke.effect if has else ""

    @property
    def revocation_by_hand(self) -> str:
        return revoking.by_hand(self.kind.entry)

    def revocation(
        self,
        connection: ConnectionConfig,
        *,
        access_token: Secret | None,
        refresh_token: Secret | None,
        now: datetime,
    ) -> WireRequest | None:
        return revoking.request(
            self.kind.entry,
            connection,
            self.around,
            access_token=access_token,
            refresh_token=refresh_token,
            now=now,
        )

    def read_revocation(self, answer: Answered) -> RevocationVerdict:
        return revoking.read(self.kind.entry, answer)
