"""Hand one access token out: find, authorise, freshen, audit, open. In that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from worker.domain.access import ApiKey, Verb
from worker.domain.errors import NotFoundError, TamperError, TransientError, WorkerError
from worker.domain.grant import GrantId, GrantState
from worker.domain.held import (
    GONE,
    Actor,
    Ask,
    HeldGrant,
    Withheld,
    enough,
    of_what_is_held,
    parked,
    tells_its_life,
    usable,
    use_until,
    who_must_act,
)
from worker.domain.ports import AuditRecord, Clock, Hints, Offload, Vault
from worker.domain.refusals import (
    AmbiguousError,
    AwayError,
    ForbiddenVerbError,
    GoneError,
    NeedsLoginError,
)
from worker.domain.secret import Secret
from worker.domain.token_pair import parted
from worker.handout.forcing import Forced
from worker.handout.grouping import Grouped
from worker.handout.ports import HeldGrants
from worker.monitoring.metrics import HANDOUTS

PATIENCE = timedelta(seconds=10)
CONFIRMATION = timedelta(seconds=60)  # between the two refusals that I8 asks for
SHORT_WAIT = timedelta(seconds=5)
OPERATOR_WAIT = timedelta(minutes=5)  # nothing changes before a person has acted

_ENDING = (GrantState.TOMBSTONED, GrantState.REVOKING)
_OF_GRANTS = (AmbiguousError, AwayError, GoneError, NeedsLoginError, TamperError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """An access token on its way to an app."""

    grant: HeldGrant  # as asked for; of an alias with the times of the grant it stands for
    access_token: Secret
    token_secret: Secret | None  # OAuth 1.0a
    use_until: datetime
    at: datetime


class Handout:
    """The one place where an access token is opened for somebody."""

    def __init__(
        self,
        *,
        grants: HeldGrants,
        vault: Vault,
        hints: Hints,
        clock: Clock,
        offload: Offload,
        outlives_renewal: Mapping[str, timedelta] | None = None,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._grants = grants
        self._vault = vault
        self._clock = clock
        self._offload = offload
        self._outlives_renewal = {} if outlives_renewal is None else outlives_renewal
        self._find = Grouped(grants.find_many, offload)
        self._record = Grouped(self._write, offload)
        self._forced = Forced(
            grants=grants, hints=hints, clock=clock, offload=offload, patience=patience
        )

    async def token(self, key: ApiKey, ask: Ask) -> Handed:
        """An access token that lives as long as asked, or the best there is.

        Raises: NotFoundError (not there, or not for this key), ForbiddenVerbError,
        AmbiguousError, NeedsLoginError, GoneError, AwayError, TransientError (store away).
        """
        try:
            handed = await self._token(key, ask)
        except WorkerError as error:
            # of what was not found, or not looked up, the tenant's name may be anybody's invention
            founded = isinstance(error, _OF_GRANTS)
            HANDOUTS.labels(ask.tenant if founded else "", error.code).inc()
            raise
        HANDOUTS.labels(ask.tenant, "served").inc()
        return handed

    async def _token(self, key: ApiKey, ask: Ask) -> Handed:
        asked_for = _single(key, ask, await self._find.ask(ask))
        holder = await self._holder(asked_for)
        told = of_what_is_held(ask, holder)
        if not enough(holder, told, self._clock.now()):
            await self._freshened(holder, told, actor=f"key:{key.name}")
            # That took seconds, in which he may have been blocked, deleted or given up (I14).
            asked_for = _single(key, ask, await self._find.ask(ask))
            holder = await self._holder(asked_for)
            if not usable(holder, told, self._clock.now()):
                raise await self._refusal(holder, None)
        await self._record.ask(self._entry(key, asked_for, holder))  # I19: durable first
        return self._open(asked_for, holder)

    async def _holder(self, asked_for: HeldGrant) -> HeldGrant:
        """The grant whose tokens these are (C18: one refresh token, one holder)."""
        if asked_for.state in GONE:
            raise GoneError(grant=asked_for.id)
        if asked_for.withheld is Withheld.USER_MISSING:  # reads as it would after the deletion
            raise NotFoundError("Auth0 knows no such user", code="not_found")
        if asked_for.withheld is not None:
            who = who_must_act(asked_for)
            raise NeedsLoginError(reason=asked_for.withheld, who=who, grant=asked_for.id)
        holder: HeldGrant | None = asked_for
        passed: set[GrantId] = set()
        while holder is not None and holder.state not in GONE and holder.alias_of is not None:
            if holder.id in passed:  # each follows the other, and nobody holds anything
                raise GoneError(grant=asked_for.id)
            passed.add(holder.id)
            holder = await self._offload(self._grants.by_id, holder.alias_of)
        if holder is not None and holder.state in _ENDING and asked_for.access_token is not None:
            return asked_for  # what is left of its own, until the refresh token is handed over
        if holder is None or holder.state in GONE:
            raise GoneError(grant=asked_for.id)
        return holder

    async def _freshened(self, holder: HeldGrant, ask: Ask, *, actor: str) -> None:
        """Have it renewed if it can be. Raises: why nothing usable came of it."""
        retry_at = None
        if holder.state is GrantState.ACTIVE and holder.renewable:
            before = holder
            holder, retry_at = await self._forced.renewed(holder, actor=actor)
            if tells_its_life(before, holder, ask):
                await self._learn(before)
        if not usable(holder, ask, self._clock.now()):
            raise await self._refusal(holder, retry_at)
        # shorter than asked at worst; `expires_in` says so

    async def _learn(self, refused: HeldGrant) -> None:
        """Nobody tells how long these tokens live; a refusal tells that this one was too old."""
        age = (self._clock.now() - refused.issued_at).total_seconds()
        with suppress(TransientError):
            await self._offload(self._grants.refused, refused.key, refused.id, age=age)

    async def _refusal(self, holder: HeldGrant, retry_at: datetime | None) -> WorkerError:
        """Nothing valid is left: say whether time, the user or the operator mends it."""
        if holder.state in GONE:
            return GoneError(grant=holder.id)
        if holder.state is GrantState.SUSPECT:
            return self._away(holder, "provider_refused", "being confirmed", None, CONFIRMATION)
        if holder.state is not GrantState.ACTIVE or not holder.renewable:
            reason = holder.reason or holder.state
            return NeedsLoginError(reason=reason, who=who_must_act(holder), grant=holder.id)
        tenant, connection = holder.key.tenant, holder.key.connection
        if stopped := await self._offload(self._grants.why_stopped, tenant, connection):
            operator = Actor.OPERATOR
            return self._away(holder, "connection_stopped", stopped, operator, OPERATOR_WAIT)
        if parked(holder):
            admin = Actor.OPERATOR
            return self._away(holder, "needs_admin", str(holder.reason), admin, OPERATOR_WAIT)
        wait = (retry_at or holder.due_at or self._clock.now()) - self._clock.now()
        reason = holder.last_error or "no answer from the provider yet"
        return self._away(holder, "provider_away", reason, None, max(wait, SHORT_WAIT))

    def _away(
        self, holder: HeldGrant, code: str, reason: str, who: Actor | None, wait: timedelta
    ) -> AwayError:
        return AwayError(code=code, reason=reason, who=who, grant=holder.id, retry_after=wait)

    def _write(self, records: Sequence[AuditRecord]) -> Sequence[None]:
        self._grants.record(records)
        return [None] * len(records)

    def _entry(self, key: ApiKey, asked_for: HeldGrant, holder: HeldGrant) -> AuditRecord:
        detail: dict[str, object] = {"generation": holder.generation}
        if holder.id != asked_for.id:
            detail["alias_of"] = str(holder.id)
        return AuditRecord(
            at=self._clock.now(),
            actor=f"key:{key.name}",
            verb="token_read",
            tenant=asked_for.key.tenant,
            grant=asked_for.id,
            detail=detail,
        )

    def _open(self, asked_for: HeldGrant, holder: HeldGrant) -> Handed:
        if holder.access_token is None or holder.access_key is None:
            raise TamperError(f"grant {holder.id}: its data key is gone", code="data_key_gone")
        kept = self._vault.open(
            holder.access_token,
            tenant=holder.key.tenant,
            grant=holder.id,
            generation=holder.generation,
            kind="at",
            key=holder.access_key,
        )
        access_token, token_secret = parted(kept)
        now = self._clock.now()
        return Handed(
            grant=replace(holder, id=asked_for.id, key=asked_for.key, user_id=asked_for.user_id),
            access_token=access_token,
            token_secret=token_secret,
            use_until=use_until(
                holder, now, after_renewal=self._outlives_renewal.get(holder.provider)
            ),
            at=now,
        )


def _single(key: ApiKey, ask: Ask, found: Sequence[HeldGrant]) -> HeldGrant:
    """The one grant asked for. Missing and forbidden read alike, after the same look (I18)."""
    verb = Verb.READ if ask.user_id is not None else Verb.ADMIN
    if not found or not _may(key, verb, ask):
        raise NotFoundError("no such grant, or not for this key", code="not_found")
    if ask.stale is not None and not _may(key, Verb.RENEW, ask):
        raise ForbiddenVerbError("`stale` needs the verb `renew`", code="verb_missing")
    if len(found) > 1:
        raise AmbiguousError([grant.key.identity_user_id for grant in found])
    return found[0]


def _may(key: ApiKey, verb: Verb, ask: Ask) -> bool:
    return key.allows(verb, ask.tenant, ask.connection, ask.user_id)
