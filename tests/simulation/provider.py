"""A provider of every rotation class, with a ledger of what was spent, issued and revoked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

from worker.domain.exchange import (
    Answered,
    ConnectionConfig,
    Lifetimes,
    Limits,
    Reading,
    Rotation,
    Salvaged,
    Verdict,
    WireRequest,
)
from worker.domain.grant import ExpiryKind, TokenSet
from worker.domain.ports import ImportedExpiry
from worker.domain.secret import Secret

HOUR = 3600
NO_LIMITS = Lifetimes(
    access=None, refresh=None, refresh_idle=None, margin=None, not_before=None, keepalive=None
)


@dataclass
class Family:
    """One login's chain of refresh tokens, as the provider knows it."""

    tokens: list[str]  # in the order of issue
    revoked: bool = False
    rotated_at: dict[str, float] = field(default_factory=dict)  # when it was first spent
    successor: dict[str, str] = field(default_factory=dict)

    @property
    def newest(self) -> str:
        return self.tokens[-1]


class Ledger:
    """The provider's side of every exchange. `rotation` and `grace` may be changed under way."""

    def __init__(
        self, rotation: Rotation, *, grace: float = 0.0, siblings: str = "same", life: float = HOUR
    ) -> None:
        self.rotation = rotation
        self.grace = grace
        self.siblings = siblings  # what a second use in the grace brings: same, new, newest
        self.life = life
        self.families: dict[str, Family] = {}  # by every token of it
        self.spent: list[tuple[float, str, str]] = []  # when, token, what became of it
        self.double_spends: list[str] = []  # tokens whose reuse was refused or revoked a family
        self.on_double_spend: Callable[[str, float], None] = lambda *_: None
        self._numbers = count(1)

    def login(self, token: str) -> str:
        self.families[token] = Family(tokens=[token])
        return token

    def revoke(self, token: str) -> None:
        self.families[token].revoked = True

    def refresh(self, token: str, now: float) -> tuple[int, dict[str, object]]:
        """Act on one request: status and body of the answer."""
        family = self.families.get(token)
        if family is None or family.revoked:
            return self._refuse(token, now, "dead")
        if self.rotation is Rotation.N:
            return self._issue(family, token, token, now)
        if token in family.rotated_at and self.rotation is not Rotation.M:
            return self._again(family, token, now)
        return self._issue(family, token, self._rotate(family, token, now), now)

    def _again(self, family: Family, token: str, now: float) -> tuple[int, dict[str, object]]:
        in_grace = now - family.rotated_at[token] <= self.grace
        if self.rotation is Rotation.G and in_grace:
            if self.siblings == "same":
                return self._issue(family, token, family.successor[token], now)
            return self._issue(family, token, self._rotate(family, token, now), now)
        self.double_spends.append(token)
        self.on_double_spend(token, now)
        if self.rotation is Rotation.F:
            family.revoked = True
        return self._refuse(token, now, "reused")

    def _rotate(self, family: Family, token: str, now: float) -> str:
        new = f"{token.split('.', maxsplit=1)[0]}.{next(self._numbers)}"
        family.tokens.append(new)
        family.successor[token] = new
        family.rotated_at.setdefault(token, now)
        if self.siblings == "newest":  # an older sibling is spent by the birth of a newer one
            for other in family.tokens[:-1]:
                family.rotated_at.setdefault(other, now - (0 if other == token else 1e9))
        self.families[new] = family
        return new

    def _issue(
        self, family: Family, token: str, refresh: str, now: float
    ) -> tuple[int, dict[str, object]]:
        self.spent.append((now, token, refresh))
        return 200, {
            "access_token": f"at-{refresh}-{next(self._numbers)}",
            "refresh_token": refresh,
            "expires_in": self.life,
        }

    def _refuse(self, token: str, now: float, why: str) -> tuple[int, dict[str, object]]:
        self.spent.append((now, token, why))
        return 400, {"error": "invalid_grant"}


class FakeEntry:
    """Meets `Provider`: refresh token in the body, JSON out."""

    not_renewable: str | None = None
    introspects = False
    user_pair_at = ""
    lifetimes = NO_LIMITS
    may_repeat = False

    def __init__(self, name: str, ledger: Ledger, *, declared: Rotation | None = None) -> None:
        self.name = name
        self.spends = "rt"
        self.ledger = ledger
        self.host = f"{name}.example"
        self.limits = Limits(concurrency=50, per_second=10_000.0)
        self._declared = declared

    @property
    def rotation(self) -> Rotation:
        return self._declared or self.ledger.rotation

    @property
    def always_rotates(self) -> bool:
        return self.rotation is Rotation.S

    @property
    def grace_seconds(self) -> float:
        return self.ledger.grace

    def request(
        self,
        connection: ConnectionConfig,
        *,
        subject: Secret,
        scope: str | None,
        now: datetime,
        first: bool = False,
    ) -> WireRequest:
        return WireRequest(
            method="POST",
            url=f"https://{self.host}/token",
            host=self.host,
            headers={},
            body=subject.reveal(),
        )

    def salvage(self, answer: Answered) -> Salvaged:
        body = _parsed(answer)
        return Salvaged(
            access_token=_secret(body.get("access_token")),
            refresh_token=_secret(body.get("refresh_token")),
        )

    def read(self, answer: Answered, *, asked_at: datetime) -> Reading:
        body = _parsed(answer)
        error = str(body.get("error", f"http_{answer.status}"))
        if error in ("invalid_client", "unauthorized_client"):
            return Reading(verdict=Verdict.CONFIG_WRONG, code=error)
        if error == "client_or_haste":
            return Reading(verdict=Verdict.CONFIG_WRONG, code=error, if_repeated=True)
        if error == "invalid_grant":
            return Reading(verdict=Verdict.GRANT_DEAD, code=error)
        access = _secret(body.get("access_token"))
        if answer.status != 200 or access is None:
            asked = answer.headers.get("retry-after")
            return Reading(
                verdict=Verdict.TRANSIENT,
                code=error,
                retry_after=timedelta(seconds=float(asked)) if asked else None,
            )
        life, silence = body.get("expires_in"), str(body.get("refresh_expires_in", ""))
        tokens = TokenSet(
            access_token=access,
            refresh_token=_secret(body.get("refresh_token")),
            issued_at=asked_at,
            expiry=ExpiryKind.UNTOLD if life is None else ExpiryKind.AT,
            expires_at=None if life is None else asked_at + timedelta(seconds=float(str(life))),
            refresh_expires_at=asked_at + timedelta(seconds=float(str(silence)))
            if silence
            else None,
            scope=str(body["scope"]) if "scope" in body else None,
        )
        account = body.get("account")
        return Reading(
            verdict=Verdict.RENEWED,
            code="ok",
            tokens=tokens,
            account=str(account) if account else None,
        )

    def introspection(
        self, connection: ConnectionConfig, *, access_token: Secret, now: datetime
    ) -> WireRequest:
        return WireRequest(
            method="POST",
            url=f"https://{self.host}/introspect",
            host=self.host,
            headers={},
            body=access_token.reveal(),
        )

    def read_introspection(self, answer: Answered, *, now: datetime) -> datetime | None:
        ends = _parsed(answer).get("exp")
        return datetime.fromtimestamp(float(str(ends)), UTC) if ends else None

    def read_imported(self, **_: object) -> ImportedExpiry:
        raise AssertionError("renewing never imports")


class FakeCatalogue:
    """Meets `Catalogue`, as far as renewing asks."""

    def __init__(self, entries: Mapping[str, FakeEntry]) -> None:
        self.entries = dict(entries)

    def names(self) -> list[str]:
        return list(self.entries)

    def entry(self, name: str, connection: ConnectionConfig) -> FakeEntry:
        return self.entries[name]

    def resolve(self, connection: ConnectionConfig, **_: object) -> FakeEntry:
        return self.entries[connection.strategy]


def answer(status: int, body: Mapping[str, object] | bytes, **headers: str) -> Answered:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answered(
        status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=raw
    )


def _parsed(answer: Answered) -> dict[str, object]:
    try:
        body = json.loads(answer.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _secret(value: object) -> Secret | None:
    return Secret(value) if isinstance(value, str) and value else None
