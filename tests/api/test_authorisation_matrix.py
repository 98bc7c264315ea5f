"""T13: every cell of key scope × verb × tenant × connection × user, over HTTP (I18)."""

from itertools import product
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from tests.handout.conftest import in_place
from worker.api import KeyBook, build_app
from worker.domain.access import bootstrap_key
from worker.domain.grant import ExpiryKind, GrantId, GrantKey, GrantPart, GrantState
from worker.domain.held import HeldGrant
from worker.domain.secret import Secret
from worker.handout import Explain, Handout
from worker.revocation import Nature, Reach, Requests

TENANTS = ("acme", "umbrella")
CONNECTIONS = ("google", "github")
USERS = ("auth0|1", "sms|1")
VERBS = ("read", "renew", "revoke", "status", "admin")

PATTERNS = {  # pattern → what it covers, said by hand and not by the code under test
    "tenant": {"acme": {"acme"}, "*": set(TENANTS)},
    "connection": {"google": {"google"}, "g*": set(CONNECTIONS), "*hub": {"github"}},
    "user": {"auth0|*": {"auth0|1"}, "*": {*USERS, None}},
}
NEEDED = {  # one of the verbs that open each door
    "token": {"read"},
    "stale": {"read"},
    "list": {"read", "status"},
    "explain": {"read", "status"},
    "explain admin": {"read", "status", "admin"},
    "admin token": {"admin"},
    "revoke": {"revoke"},
}
KEY = "evg_0123456789abcdef"


class Table:
    """Meets `HeldGrants` and `Finder` in memory: one grant in every cell."""

    def __init__(self, clock):
        self.rows = [
            self._held(clock, *cell) for cell in product(TENANTS, CONNECTIONS, (*USERS, None))
        ]
        self.left = []

    def find(self, ask):
        return [
            held
            for held in self.rows
            if (held.key.tenant, held.key.connection, held.user_id)
            == (ask.tenant, ask.connection, ask.user_id)
        ]

    def find_many(self, asks):
        return [self.find(ask) for ask in asks]

    def by_id(self, grant):
        return next((held for held in self.rows if held.id == grant), None)

    def of_user(self, tenant, user_id):
        return [h for h in self.rows if (h.key.tenant, h.user_id) == (tenant, user_id)]

    def why_stopped(self, _tenant, _connection):
        return None

    def timeline(self, _grant, _limit):
        return []

    def candidates(self, _grant):
        return {}

    def problems(self, _tenant, _connection):
        return []

    def record(self, records):
        self.left += records

    def bury(self, selection, **_told):
        return [selection.grant]

    def _held(self, clock, tenant, connection, user):
        part = GrantPart.USER if user else GrantPart.ADMIN
        times = ("expires_at", "refresh_expires_at", "renewed_at", "due_at", "not_before")
        words = ("reason", "alias_of", "scope", "last_error", "suspect_since")
        nothing = dict.fromkeys(times + words)
        return HeldGrant(
            id=GrantId(uuid4()),
            key=GrantKey(
                tenant=tenant, connection=connection, identity_user_id=user or "con", part=part
            ),
            user_id=user,
            strategy="oauth2",
            provider="oauth2",
            state=GrantState.ACTIVE,
            renewable=True,
            generation=5,
            access_token=b"sealed",
            access_key=b"wrapped",
            token_type="Bearer",
            issued_at=clock.now(),
            expiry=ExpiryKind.NEVER,
            failures=0,
            **nothing,
        )


class OpenVault:
    def open(self, sealed, **_bound):
        return Secret("the-token")


def application(table, clock, scope):
    key = bootstrap_key(name="k", secret=Secret(KEY), scope=scope)
    return build_app(
        handout=Handout(grants=table, vault=OpenVault(), hints=None, clock=clock, offload=in_place),
        explain=Explain(grants=table, clock=clock, offload=in_place),
        requests=Requests(
            grants=table,
            tombstones=table,
            reach=Reach(table, lambda _: Nature(effect="token", by_hand="")),
            clock=clock,
            offload=in_place,
        ),
        keys=KeyBook(find=lambda _: None, clock=clock, offload=in_place, bootstrap=[key]),
    )


def doors(table, tenant, connection, user):
    """Name, method and path of all that can be asked about one cell."""
    (held,) = [
        h
        for h in table.rows
        if (h.key.tenant, h.key.connection, h.user_id) == (tenant, connection, user)
    ]
    if user is None:
        yield "admin token", "GET", f"/v1/{tenant}/connections/{connection}/token"
        yield "explain admin", "GET", f"/v1/{tenant}/grants/{held.id}"
        return
    tokens = f"/v1/{tenant}/users/{quote(user, safe='')}/tokens"
    yield "token", "GET", f"{tokens}/{connection}"
    yield "stale", "GET", f"{tokens}/{connection}?stale=4"
    yield "list", "GET", tokens
    yield "explain", "GET", f"/v1/{tenant}/grants/{held.id}"
    yield "revoke", "POST", f"{tokens}/{connection}/revoke"


def covered(scope, door, connection, cell):
    """Whether the scope opens that door for that cell, by the table above."""
    verbs, patterns = scope
    names = ("tenant", "connection", "user")
    inside = all(
        value in PATTERNS[name][pattern]
        for name, pattern, value in zip(names, patterns, cell, strict=True)
    )
    return inside and bool(NEEDED[door] & set(verbs))


@pytest.mark.parametrize("verbs", [*((verb,) for verb in VERBS), VERBS], ids=",".join)
async def test_every_cell(clock, verbs):
    table = Table(clock)
    for patterns in product(*(PATTERNS[name] for name in ("tenant", "connection", "user"))):
        scope = f"{','.join(verbs)}:{'/'.join(patterns)}"
        transport = httpx.ASGITransport(application(table, clock, scope))
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://e", headers=headers
        ) as http:
            await _check(http, table, (verbs, patterns))


async def _check(http, table, scope):
    for tenant, connection, user in product(TENANTS, CONNECTIONS, (*USERS, None)):
        for door, method, path in doors(table, tenant, connection, user):
            answer = await http.request(method, path)
            cells = [(tenant, connection, user)]
            if door == "list":  # shows what is covered of any connection
                cells = [(tenant, other, user) for other in CONNECTIONS]
            seen = [cell for cell in cells if covered(scope, door, cell[1], cell)]
            told = (scope, door, cells, answer.status_code, answer.text)
            if not seen:
                assert answer.status_code == 404, told
                assert answer.json()["code"] == "not_found", told
                assert "the-token" not in answer.text, told
            elif door == "stale" and "renew" not in scope[0]:
                assert (answer.status_code, answer.json()["code"]) == (403, "verb_missing"), told
            else:
                assert answer.status_code in (200, 202), told
            if door == "list" and seen:
                listed = {grant["connection"] for grant in answer.json()["tokens"]}
                assert listed == {cell[1] for cell in seen}, told
