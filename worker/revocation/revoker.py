"""Works tombstones off: each pair of tokens is revoked at its provider, then the keys go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from worker.domain.burial import (
    GIVE_UP_AFTER,
    Bequest,
    Buried,
    Heir,
    Receipt,
    SealedPair,
    pause_after,
)
from worker.domain.errors import ConfigurationError, KeyringError, TamperError
from worker.domain.exchange import Answered, ConnectionConfig, NotSent, RevocationVerdict
from worker.domain.ports import (
    Catalogue,
    Clock,
    Connections,
    Offload,
    Provider,
    TokenEndpoint,
    Vault,
)
from worker.domain.secret import Secret
from worker.monitoring.metrics import REVOCATIONS
from worker.revocation.ports import Tombstones
from worker.revocation.reach import Reach

READ_TIMEOUT = 15.0  # seconds; asking twice does no harm (RFC 7009 §2.2: unknown tokens are 200)
_ONE_TOKEN = frozenset({"token", "refresh_token"})  # effects that leave the access token alive


class Revoker:
    """Runs in a worker: it opens refresh tokens. Several at once share the work by leases.

    A consent under which another grant lives is spared: whoever wants both ended gives both up.
    """

    def __init__(
        self,
        *,
        tombstones: Tombstones,
        connections: Connections,
        catalogue: Catalogue,
        endpoint: TokenEndpoint,
        vault: Vault,
        reach: Reach,
        clock: Clock,
        offload: Offload,
        at_once: int = 16,
    ) -> None:
        self._tombstones = tombstones
        self._connections = connections
        self._catalogue = catalogue
        self._endpoint = endpoint
        self._vault = vault
        self._reach = reach
        self._clock = clock
        self._offload = offload
        self._at_once = at_once

    async def drain(self, *, budget_seconds: float = 30.0) -> dict[str, int]:
        """Until nothing is ready or the budget is spent. Returns counts by outcome."""
        until = self._clock.monotonic() + budget_seconds
        counts: Counter[str] = Counter()
        while self._clock.monotonic() < until:
            now = self._clock.now()
            ready = await self._offload(self._tombstones.ready, now, self._at_once)
            if not ready:
                break
            for receipts in await asyncio.gather(*map(self._work_off, ready)):
                counts.update(receipt.outcome for receipt in receipts)
        return dict(counts)

    async def _work_off(self, buried: Buried) -> Sequence[Receipt]:
        bequest: Bequest | None = None
        receipts: Sequence[Receipt] = ()
        if buried.heir is None:
            receipts = [await self._revoked(buried, pair) for pair in buried.pairs]
        elif buried.arriving_until is None:  # what there is to hand over may have a successor then
            bequest, receipts = await self._bequeathed(buried, buried.heir)
        for receipt in receipts:
            REVOCATIONS.labels(buried.provider, receipt.outcome).inc()
        now = self._clock.now()
        await self._offload(
            self._tombstones.settle,
            buried,
            receipts,
            next_at=_next(buried, receipts, now),
            now=now,
            bequest=bequest,
        )
        return receipts

    async def _revoked(self, buried: Buried, pair: SealedPair) -> Receipt:
        if buried.shared or pair.shared:
            return Receipt(pair=pair, outcome="shared", detail={})
        try:
            return await self._asked(buried, pair)
        except TamperError as error:
            return Receipt(pair=pair, outcome="unreadable", detail={"code": error.code})
        except (ConfigurationError, KeyringError) as error:  # an operator may mend it while we wait
            return _later(buried, pair, error.code, "", self._clock.now())

    async def _bequeathed(
        self, buried: Buried, heir: Heir
    ) -> tuple[Bequest | None, Sequence[Receipt]]:
        """Its refresh token sealed for a grant that lives by it (C18). The provider is not asked
        about anything: what ends one of these tokens may end them all."""
        latest = next(pair for pair in buried.pairs if pair.latest)
        try:
            bequest = await self._offload(self._sealed_for, heir, buried, latest)
        except TamperError:
            return None, [await self._revoked(buried, pair) for pair in buried.pairs]
        except (ConfigurationError, KeyringError) as error:
            now = self._clock.now()
            return None, [_later(buried, pair, error.code, "", now) for pair in buried.pairs]
        handed = {"heir": str(heir.id)}
        return bequest, [
            Receipt(pair=pair, outcome="shared", detail=handed if pair.latest else {})
            if pair.latest or pair.shared
            else Receipt(pair=pair, outcome="spared", detail={"living": 1})
            for pair in buried.pairs
        ]

    def _sealed_for(self, heir: Heir, buried: Buried, pair: SealedPair) -> Bequest:
        refresh = self._opened(buried, pair, "rt")
        if refresh is None:
            raise TamperError(f"grant {buried.id}: its data key is gone", code="data_key_gone")
        sealed = self._vault.seal(
            refresh,
            tenant=heir.tenant,
            grant=heir.id,
            generation=heir.generation,
            kind="rt",
            key=heir.refresh_key,
        )
        return Bequest(heir=heir, rt_fp=self._vault.fingerprint(refresh), refresh_token=sealed)

    async def _asked(self, buried: Buried, pair: SealedPair) -> Receipt:
        connection = await self._offload(self._connection, buried)
        if connection is None:
            return Receipt(pair=pair, outcome="not_offered", detail={"code": "connection_gone"})
        provider = self._catalogue.entry(buried.provider, connection)
        if living := await self._offload(self._reach.siblings, [buried]):
            detail = _told(by_hand=provider.revocation_by_hand)
            return Receipt(pair=pair, outcome="spared", detail=detail | {"living": len(living)})
        access = await self._offload(self._opened, buried, pair, "at")
        refresh = await self._offload(self._opened, buried, pair, "rt")
        ask = partial(self._ask, buried, pair, provider=provider, connection=connection)
        receipt = await ask(access=access, refresh=refresh)
        if receipt.outcome != "revoked" or refresh is None:
            return receipt
        if not self._takes(provider, connection, refresh):
            return _access_only(receipt, provider)
        if access is not None and provider.revocation_effect in _ONE_TOKEN:
            second = await ask(access=access, refresh=None)
            return second if second.outcome != "not_offered" else receipt
        return receipt

    def _takes(self, provider: Provider, connection: ConnectionConfig, refresh: Secret) -> bool:
        """Whether the provider can be asked about a refresh token."""
        asked = provider.revocation(
            connection, access_token=None, refresh_token=refresh, now=self._clock.now()
        )
        return asked is not None

    async def _ask(
        self,
        buried: Buried,
        pair: SealedPair,
        *,
        provider: Provider,
        connection: ConnectionConfig,
        access: Secret | None,
        refresh: Secret | None,
    ) -> Receipt:
        """One request to the provider, and its answer as a receipt."""
        now = self._clock.now()
        by_hand = provider.revocation_by_hand
        request = provider.revocation(
            connection, access_token=access, refresh_token=refresh, now=now
        )
        if request is None:
            return Receipt(pair=pair, outcome="not_offered", detail=_told(by_hand=by_hand))
        outcome = await self._endpoint.exchange(
            request, gate=lambda: True, read_timeout=READ_TIMEOUT
        )
        if not isinstance(outcome, Answered):
            sent = "not_sent" if isinstance(outcome, NotSent) else "no_answer"
            return _later(buried, pair, f"{sent}:{outcome.reason}", by_hand, now)
        match provider.read_revocation(outcome):
            case RevocationVerdict.REVOKED:
                dead = f"http_{outcome.status}" if outcome.status >= 400 else ""
                told = _told(effect=provider.revocation_effect, code=dead)
                return Receipt(pair=pair, outcome="revoked", detail=told)
            case RevocationVerdict.REFUSED:
                detail = _told(by_hand=by_hand, code=f"http_{outcome.status}")
                return Receipt(pair=pair, outcome="refused", detail=detail)
            case _:
                return _later(buried, pair, f"http_{outcome.status}", by_hand, now)

    def _connection(self, buried: Buried) -> ConnectionConfig | None:
        try:
            return self._connections.get(buried.key.tenant, buried.key.connection)
        except TamperError as error:  # the client's secret, not the grant's tokens: can be mended
            raise ConfigurationError(str(error), code="connection_unreadable") from error

    def _opened(self, buried: Buried, pair: SealedPair, kind: str) -> Secret | None:
        sealed = pair.access_token if kind == "at" else pair.refresh_token
        key = buried.access_key if kind == "at" else buried.refresh_key
        if sealed is None or key is None:
            return None
        return self._vault.open(
            sealed,
            tenant=buried.key.tenant,
            grant=buried.id,
            generation=pair.generation,
            kind=kind,
            key=key,
        )


def _access_only(receipt: Receipt, provider: Provider) -> Receipt:
    """Of a provider that takes access tokens alone: the refresh token may have outlived it.

    So where an access token ends by itself alone, and where it had ended before it was asked about.
    """
    if provider.revocation_effect != "token" and "code" not in receipt.detail:
        return receipt
    detail = {**receipt.detail, **_told(by_hand=provider.revocation_by_hand)}
    return Receipt(pair=receipt.pair, outcome="partly", detail=detail)


def _later(buried: Buried, pair: SealedPair, code: str, by_hand: str, now: datetime) -> Receipt:
    """Asked again after a pause, until patience ends and the receipt says so."""
    over = now - buried.tombstoned_at >= GIVE_UP_AFTER
    return Receipt(
        pair=pair,
        outcome="gave_up" if over else "later",
        detail=_told(code=code, by_hand=by_hand if over else ""),
    )


def _next(buried: Buried, receipts: Sequence[Receipt], now: datetime) -> datetime | None:
    """When to come back; None: all is done and no answer can bring tokens any more."""
    if not all(receipt.final for receipt in receipts):
        return now + pause_after(buried.failures)
    if buried.arriving_until is not None:
        return min(buried.arriving_until, now + pause_after(buried.failures))
    return None


def _told(**detail: str) -> dict[str, object]:
    return {name: value for name, value in detail.items() if value}
