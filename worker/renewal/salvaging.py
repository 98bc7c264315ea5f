"""Turns an answer into sealed tokens, before anything about it is judged (protocol 6)."""

from __future__ import annotations

from datetime import datetime

from worker.domain.attempt import OTHER_ACCOUNT, Brought
from worker.domain.exchange import Answered, Reading, Rotation
from worker.domain.grant import Claim, ExpiryKind, Fingerprint, TokenSet, is_account_of
from worker.domain.ports import DataKeys, Notice, Vault
from worker.domain.schedule import earliest, renewal_time, spread_of, told_end
from worker.domain.secret import Secret
from worker.renewal.endings import notice_of
from worker.renewal.prepared import Prepared


class Salvager:
    """Seals under the generation that the claim has reserved, by the keys of its attempt."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def keys(self, claim: Claim) -> DataKeys:
        """What the answer may need, before anything is sent. Raises: KeyringError, TamperError."""
        return self._vault.data_keys(
            tenant=claim.key.tenant,
            grant=claim.grant,
            access_key=claim.tokens.access_key,
            refresh_key=claim.tokens.refresh_key,
        )

    def subject(self, prepared: Prepared, kind: str) -> Secret | None:
        """The current refresh ("rt") or access ("at") token. Raises: TamperError."""
        tokens = prepared.claim.tokens
        sealed = tokens.refresh_token if kind == "rt" else tokens.access_token
        if sealed is None:
            return None
        return prepared.data_keys.open(sealed, generation=tokens.generation, kind=kind)

    def brought(
        self, prepared: Prepared, answer: Answered, reading: Reading, *, asked_at: datetime
    ) -> Brought | None:
        """Whatever tokens there are; None where there is nothing that could be lost."""
        if reading.tokens is not None:
            if not is_account_of(prepared.claim.key, reading.account):
                return self._others(prepared, reading.tokens)
            return self._renewed(prepared, reading.tokens)
        salvaged = prepared.provider.salvage(answer)
        if salvaged.refresh_token is None:
            return None
        found = self._sealed(
            prepared,
            salvaged.access_token,
            salvaged.refresh_token,
            issued_at=asked_at,
            due_at=asked_at,
            token_type="Bearer",
            read=False,
        )
        return found if found.rotated else None

    def _others(self, prepared: Prepared, tokens: TokenSet) -> Brought | None:
        """Somebody else's: kept until they are revoked, never served and never sent."""
        found = self._sealed(
            prepared,
            None,
            tokens.refresh_token,
            issued_at=tokens.issued_at,
            due_at=None,
            token_type=tokens.token_type,
            read=False,
            aside=OTHER_ACCOUNT,
        )
        return found if found.rotated else None

    def _renewed(self, prepared: Prepared, tokens: TokenSet) -> Brought:
        claim, lifetimes = prepared.claim, prepared.provider.lifetimes
        echoed = self._echoed(prepared, tokens)
        refresh_ends = told_end(
            logged_in_at=claim.logged_in_at, told=tokens.refresh_expires_at, lifetimes=lifetimes
        )
        return self._sealed(
            prepared,
            tokens.access_token,
            tokens.refresh_token,
            issued_at=tokens.issued_at,
            token_type=tokens.token_type,
            scope=tokens.scope,
            expiry=tokens.expiry,
            expires_at=tokens.expires_at,
            refresh_expires_at=refresh_ends,
            due_at=renewal_time(
                issued_at=tokens.issued_at,
                expiry=tokens.expiry,
                expires_at=tokens.expires_at,
                lifetimes=lifetimes,
                spread=spread_of(claim.grant),
                refresh_expires_at=refresh_ends,
            ),
            not_before=earliest(tokens.issued_at, tokens.expires_at, lifetimes),
            echoed=echoed,
            api_base=tokens.api_base,
            notices=(
                *((notice_of(claim, "same_refresh_token", "C22"),) if echoed else ()),
                *_scopes_lost(prepared, tokens),
            ),
        )

    def _sealed(
        self,
        prepared: Prepared,
        at: Secret | None,
        rt: Secret | None,
        *,
        issued_at: datetime,
        due_at: datetime | None,
        token_type: str,
        scope: str | None = None,
        expiry: ExpiryKind = ExpiryKind.UNTOLD,
        expires_at: datetime | None = None,
        refresh_expires_at: datetime | None = None,
        not_before: datetime | None = None,
        read: bool = True,
        echoed: bool = False,
        notices: tuple[Notice, ...] = (),
        api_base: str = "",
        aside: str = "",
    ) -> Brought:
        """A refresh token that did not come is the one that was spent: sealed anew, because a
        ciphertext opens for its own generation only (I16)."""
        claim = prepared.claim
        rt = rt or self.subject(prepared, "rt")
        return Brought(
            grant=claim.grant,
            tenant=claim.key.tenant,
            connection=claim.key.connection,
            provider=claim.provider,
            user_id=claim.user_id,
            attempt=claim.attempt,
            fence=claim.fence,
            parent_fp=claim.parent_fp,
            family=claim.family,
            generation=claim.next_generation,
            access_token=self._seal(prepared, at, "at"),
            refresh_token=self._seal(prepared, rt, "rt"),
            at_fp=self._fp(at),
            rt_fp=self._fp(rt),
            token_type=token_type,
            scope=scope,
            issued_at=issued_at,
            expiry=expiry,
            expires_at=expires_at,
            refresh_expires_at=refresh_expires_at,
            due_at=due_at,
            not_before=not_before,
            logged_in_at=claim.logged_in_at,
            read=read,
            echoed=echoed,
            healed=claim.suspect_since is not None,
            notices=notices,
            api_base=api_base,
            aside=aside,
        )

    def _echoed(self, prepared: Prepared, tokens: TokenSet) -> bool:
        """C22: a token sent again came back itself, where each use should bring another."""
        claim = prepared.claim
        resent = prepared.sent > 1 or claim.earlier is not None or _in_grace(prepared)
        rotates = prepared.rules.rotation in (Rotation.G, Rotation.S) or claim.rotated_before
        each_time = rotates and not prepared.provider.may_repeat
        if not (resent and each_time and tokens.refresh_token is not None):
            return False
        return self._fp(tokens.refresh_token) == claim.parent_fp

    def _seal(self, prepared: Prepared, secret: Secret | None, kind: str) -> bytes | None:
        if secret is None:
            return None
        generation = prepared.claim.next_generation
        return prepared.data_keys.seal(secret, generation=generation, kind=kind)

    def _fp(self, secret: Secret | None) -> Fingerprint | None:
        return None if secret is None else self._vault.fingerprint(secret)


def _scopes_lost(prepared: Prepared, tokens: TokenSet) -> tuple[Notice, ...]:
    """Once per family: what an operator said is needed has not come again."""
    required = prepared.connection.overrides.get("required_scopes")
    if tokens.scope is None or not isinstance(required, list | tuple):
        return ()
    lost = {str(scope) for scope in required} - set(tokens.scope.replace(",", " ").split())
    if not lost:
        return ()
    return (notice_of(prepared.claim, "grant_lacks_scope", " ".join(sorted(lost))),)


def _in_grace(prepared: Prepared) -> bool:
    """Whether another attempt had sent it that this one knows nothing of: whoever took over from
    that one gave his claim back."""
    age = (prepared.claim.claimed_at - prepared.claim.first_claimed_at).total_seconds()
    return 0.0 < age < prepared.rules.grace
