"""Every entry of the catalogue, played: the same twelve scenarios for each, and its ends in time.

What is compared is our reading of a provider with the provider's behaviour as its own sources
have it, written down twice and apart: `catalog.toml` here, `profiles.toml` there. An entry that is
added brings its tests by itself, once it has a profile; without one a test says what to add.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Protocol

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.rehearsal.conversation import Conversation, connection_of, held, pem
from worker.domain.exchange import RevocationVerdict, Rotation, Uncertain, Verdict
from worker.domain.grant import ExpiryKind
from worker.domain.secret import Secret
from worker.providers import Catalogue, load_catalogue
from worker.providers.provider import Kind
from worker.providers.vocabulary import duration
from worker.rehearsal import (
    ConnectionSpec,
    Profile,
    RunningStage,
    StageSettings,
    config_of,
    profiles,
    rehearsal,
)

PLAYS = profiles()
SHIPPED = load_catalogue({}, allow_loopback=False)


def entry_of(name: str) -> str:
    """The catalogue's entry for a profile."""
    return PLAYS[name].entry or name


PLAYED = sorted(name for name, plays in PLAYS.items() if plays.grant != "none")
ENDLESS = sorted(name for name, plays in PLAYS.items() if plays.grant == "none")
KEEPS = [
    name
    for name in PLAYED
    if PLAYS[name].rotation == "none"
    or PLAYS[name].rotates_every_s
    or PLAYS[name].grant == "access_token"
]
GIVES_BACK = [name for name in PLAYED if PLAYS[name].revoke["path"]]
SPEND_AGAIN = {Rotation.N, Rotation.M, Rotation.G}  # classes in which a lost answer is asked again


def class_of(name: str) -> Rotation:
    return Kind(name, SHIPPED[entry_of(name)]).rotation


@pytest.mark.parametrize("name", SHIPPED.names())
def test_every_entry_is_played(name: str) -> None:
    assert name in {entry_of(one) for one in PLAYS}, (
        f"the rehearsal stage cannot play '{name}': add a table [{name}] to "
        "worker/rehearsal/profiles.toml with its strategy and its source. Its head explains the "
        'words; `like = "strict"` plays a provider of which nothing is established, '
        '`grant = "none"` one with nothing to renew.'
    )


# ---------------------------------------------------------------- the hall

# What the options of these connections carry besides.
OPTIONS = {"sharepoint": {"sharepoint_host": "acme.sharepoint.com"}}


class Converse(Protocol):
    def __call__(self, name: str, subject: str = "") -> Conversation:
        """Somebody new (or `subject` again) logs in at the provider."""


@pytest.fixture(scope="module")
def hall() -> Iterator[RunningStage]:
    """Every provider at once, with the lifetimes it really has, behind a connection of its name."""
    connections = [ConnectionSpec(name=n, profile=n, options=OPTIONS.get(n, {})) for n in PLAYS]
    with rehearsal(StageSettings(connections=connections)) as stage:
        yield stage


@pytest.fixture(scope="module")
def catalogue(hall: RunningStage) -> Catalogue:
    """The shipped one, its addresses moved to the stage as the written configuration does."""
    return load_catalogue(
        config_of(hall.stage)["providers"],
        allow_loopback=True,
        auth0_domains={"rehearsal": hall.stage.settings.domain},
    )


_NUMBER = count()


@pytest.fixture(scope="module")
def converse(hall: RunningStage, catalogue: Catalogue) -> Converse:
    overrides = config_of(hall.stage)["tenants"]["rehearsal"]["connections"]

    def begin(name: str, subject: str = "") -> Conversation:
        connection = connection_of(hall, name, overrides.get(name, {}))
        user_id = hall.login(name, subject or f"user{next(_NUMBER)}")
        tokens = held(hall, name, user_id)
        provider = catalogue.resolve(
            connection,
            has_refresh_token=tokens.refresh_token is not None,
            access_token_prefix=tokens.access_token.text()[:8],
            expires_told=tokens.expires_at is not None,
        )
        refresh = tokens.refresh_token.text() if tokens.refresh_token else None
        told = provider.read_imported(
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token,
            expires_in=hall.stage.tenant.users[user_id].identities[0].expires_in,
            issued_at=tokens.issued_at,
            now=tokens.issued_at,
        )
        if told.first:
            tokens = msgspec.structs.replace(
                tokens, expiry=ExpiryKind.AT, expires_at=told.expires_at
            )
        return Conversation(
            hall, PLAYS[name], provider, connection, user_id, refresh, tokens, first=told.first
        )

    return begin


@pytest.mark.parametrize("name", [n for n in PLAYS if PLAYS[n].gives_tokens])
def test_the_right_entry_is_found_for_what_a_login_brought(converse: Converse, name: str) -> None:
    """Two kinds of grant under one strategy are told apart by what came with them."""
    grant = converse(name)
    assert grant.provider.name == entry_of(name)
    living = name in PLAYED and not grant.provider.kind.entry.dead_since
    assert (grant.provider.not_renewable is None) == living


# ---------------------------------------------------------------- 1-3: renewed, kept, rotated


@pytest.mark.parametrize("name", PLAYED)
async def test_renewed(converse: Converse, name: str) -> None:
    grant = converse(name)
    await grant.renew()
    assert grant.opens()
    assert (grant.ledger()["exchanges"], grant.ledger()["refused"]) == (1, 0)


@pytest.mark.parametrize("name", KEEPS)
async def test_a_refresh_token_that_stays_is_kept(converse: Converse, name: str) -> None:
    grant = converse(name)
    first = grant.refresh_token
    for _ in range(3):
        await grant.renew()
    assert grant.refresh_token == first
    assert grant.ledger()["exchanges"] == 3


@pytest.mark.parametrize("name", [n for n in PLAYED if n not in KEEPS])
async def test_a_refresh_token_that_changes_is_replaced(converse: Converse, name: str) -> None:
    grant = converse(name)
    spent = {grant.refresh_token}
    for _ in range(3):
        await grant.renew()
        spent.add(grant.refresh_token)
    assert len(spent) == 4
    assert (grant.ledger()["exchanges"], grant.ledger()["reused"]) == (3, 0)


# ---------------------------------------------------------------- 4, 5: a lost answer, a reuse


@pytest.mark.parametrize("name", [n for n in PLAYED if class_of(n) in SPEND_AGAIN])
async def test_a_lost_answer_is_asked_for_again(converse: Converse, name: str) -> None:
    """The class allows one more request with the same token, to the last second of the grace."""
    grant = converse(name)
    grant.falls_due()
    grant.fault("drop")
    spent = grant.spends
    assert isinstance(await grant.spend(spent), Uncertain)
    grant.passes(seconds=max(grant.provider.grace_seconds - 1, 0))
    await grant.renew()
    assert (grant.ledger()["answers_lost"], grant.ledger()["exchanges"]) == (1, 2)
    assert grant.ledger()["families_lost"] == 0


def closes_its_grace(grant: Conversation) -> None:
    if grant.plays.grace == "until_access_used":
        grant.opens()
    elif grant.plays.rotation == "single_use_grace":
        grant.passes(seconds=grant.plays.grace_s + 1)


@pytest.mark.parametrize("name", PLAYED)
async def test_a_reuse_costs_what_the_class_says(converse: Converse, name: str) -> None:
    """N and M: nothing. G and S: a refusal. F, or where reuse is known to revoke: the family."""
    grant = converse(name)
    if grant.first:
        await grant.renew()
        grant.falls_due()
    grant.passes(seconds=grant.plays.rotates_every_s)
    spent = grant.spends
    await grant.renew()
    closes_its_grace(grant)
    if grant.provider.spends == "at":
        grant.passes(days=1)  # old enough again, and not yet at its end
    else:
        grant.falls_due()
    if grant.plays.rotation in ("none", "sliding"):
        assert (await _judged(grant, spent)) is Verdict.RENEWED
        return
    assert (await _judged(grant, spent)) is Verdict.GRANT_DEAD
    if grant.plays.reuse == "revoke":
        assert grant.provider.kind.entry.reuse_revokes_family or class_of(name) is Rotation.F
        assert (await grant.asked()).verdict is Verdict.GRANT_DEAD
        assert grant.ledger()["families_lost"] == 1
    else:
        await grant.renew()


async def _judged(grant: Conversation, token: str) -> Verdict:
    reading = await grant.spend(token)
    assert not isinstance(reading, Uncertain)
    return getattr(reading, "verdict", Verdict.TRANSIENT)


@pytest.mark.parametrize("name", PLAYED)
def test_the_class_is_never_laxer_than_the_provider(name: str) -> None:
    """Too strict costs patience; too lax costs grants."""
    plays, kind = PLAYS[name], Kind(name, SHIPPED[entry_of(name)])
    allowed = {
        "none": set(Rotation),
        "sliding": set(Rotation) - {Rotation.N},
        "single_use_grace": {Rotation.G, Rotation.S, Rotation.F},
        "single_use": {Rotation.S, Rotation.F},
    }
    assert kind.rotation in allowed[plays.rotation]
    if kind.rotation is Rotation.G:
        assert kind.grace_seconds <= plays.grace_s
    survives = duration(kind.entry.lifetimes.access_after_refresh)
    said = None if survives is None else survives.total_seconds()
    assert said == plays.kills_access_after_s
    if life := kind.lifetimes.access:
        assert life.total_seconds() <= plays.access_lifetime_s


# ---------------------------------------------------------------- 6, 7: dead grant, wrong client


@pytest.mark.parametrize("name", PLAYED)
async def test_a_dead_grant_is_dead(converse: Converse, name: str) -> None:
    grant = converse(name)
    grant.hall.do("withdraw_consent", provider=name, subject=grant.subject)
    assert (await grant.asked()).verdict is Verdict.GRANT_DEAD


# Meta answers a wrong secret with code 1, its word for any trouble of its own; only the text
# would tell, and texts are not read. Waiting costs no grant.
NOT_TOLD = {"facebook": Verdict.TRANSIENT}


@pytest.mark.parametrize("name", [n for n in PLAYED if PLAYS[n].client_auth != ("none",)])
async def test_a_wrong_client_is_the_connections_fault(converse: Converse, name: str) -> None:
    grant = converse(name)
    secret = pem(ec.generate_private_key(ec.SECP256R1())) if name == "apple" else "changed"
    wrong = replace(grant.connection, client_secret=Secret(secret))
    reading = await replace(grant, connection=wrong).asked()
    assert reading.verdict is NOT_TOLD.get(name, Verdict.CONFIG_WRONG), reading
    assert grant.ledger()["wrong_client"] == 1
    await grant.renew()  # nothing happened to the grant


# ---------------------------------------------------------------- 8-10: 429, 5xx, HTML


@pytest.mark.parametrize(
    "fault", ["rate_limited_retry_after", "unavailable", "html_502", "html_200"]
)
@pytest.mark.parametrize("name", PLAYED)
async def test_a_providers_trouble_is_nobodys_fault(
    converse: Converse, name: str, fault: str
) -> None:
    grant = converse(name)
    grant.fault(fault)
    reading = await grant.asked()
    assert reading.verdict is Verdict.TRANSIENT, reading
    wait = timedelta(seconds=2) if fault == "rate_limited_retry_after" else None
    assert reading.retry_after == wait
    await grant.renew()


# ---------------------------------------------------------------- 11: the expiry, in its own form


@pytest.mark.parametrize("name", PLAYED)
async def test_the_expiry_is_the_providers_own(converse: Converse, name: str) -> None:
    """Told in whatever form, it is the provider's to the second; declared, it is never late."""
    grant = converse(name)
    tokens = await grant.renew()
    issuer = grant.hall.stage.providers[name].issuer
    ends = issuer.expires_at(tokens.access_token.text())
    assert ends is not None
    if "{expires_" in str(grant.plays.answer):
        assert tokens.expires_at is not None
        assert abs(tokens.expires_at.timestamp() - ends) < 2
    elif tokens.expiry is ExpiryKind.AT:
        assert tokens.expires_at is not None
        assert tokens.expires_at.timestamp() < ends + 2
    else:
        assert tokens.expiry is ExpiryKind.UNTOLD
    if "{refresh_expires_in}" in str(grant.plays.answer):
        assert tokens.refresh_expires_at is not None


# ---------------------------------------------------------------- 12: given back


@pytest.mark.parametrize("name", PLAYS)
def test_there_is_a_way_to_give_back_exactly_where_the_provider_has_one(name: str) -> None:
    assert bool(SHIPPED[entry_of(name)].revoke.endpoint) == bool(PLAYS[name].revoke["path"])


@pytest.mark.parametrize("name", [name for name in ENDLESS if PLAYS[name].revoke["path"]])
async def test_what_never_ends_ends_when_it_is_given_back(converse: Converse, name: str) -> None:
    grant, other = converse(name), converse(name)
    assert grant.opens()
    assert await grant.revoke() is RevocationVerdict.REVOKED
    assert grant.ledger()["revoked_by_us"] == 1
    assert not grant.opens()
    assert other.opens()
    assert await grant.revoke() is RevocationVerdict.REVOKED  # it was dead already


@pytest.mark.parametrize("name", GIVES_BACK)
async def test_a_consent_given_back_ends_as_far_as_the_entry_says(
    converse: Converse, name: str
) -> None:
    """`effect` is a promise: what it names is dead, the person's other logins are not."""
    grant = converse(name)
    effect, takes = grant.provider.revocation_effect, grant.provider.kind.entry.revoke.token
    sibling = converse(name, grant.subject)
    assert await grant.revoke() is RevocationVerdict.REVOKED
    assert grant.ledger()["revoked_by_us"] == 1
    lives = await _judged(grant, grant.spends) is Verdict.RENEWED
    sends_access = takes == "access_token"
    assert lives == (effect == "token" and sends_access)
    assert grant.opens() == (effect == "refresh_token")
    assert sibling.opens() == (effect != "app")


@pytest.mark.parametrize("name", GIVES_BACK)
async def test_a_consent_given_back_twice_is_given_back(converse: Converse, name: str) -> None:
    grant = converse(name)
    assert await grant.revoke() is RevocationVerdict.REVOKED
    assert await grant.revoke() is RevocationVerdict.REVOKED


@pytest.mark.parametrize("name", [n for n in PLAYED if n not in GIVES_BACK])
async def test_where_nobody_can_be_asked_the_place_is_told(converse: Converse, name: str) -> None:
    grant = converse(name)
    assert await grant.revoke() is None
    assert grant.provider.revocation_by_hand


# ---------------------------------------------------------------- ends in time


def silence_of(plays: Profile) -> float:
    """Seconds after which an unused refresh token is dead."""
    return min(filter(None, [plays.refresh_idle_s, plays.refresh_lifetime_s]), default=0)


SILENT = [name for name in PLAYED if silence_of(PLAYS[name])]


@pytest.mark.parametrize("name", SILENT)
async def test_silence_kills_no_sooner_than_the_entry_says(converse: Converse, name: str) -> None:
    grant, other = converse(name), converse(name)
    lives = grant.provider.lifetimes
    declared = min(filter(None, [lives.refresh_idle, lives.refresh]), default=None)
    told = "{refresh_expires_in}" in str(grant.plays.answer)
    assert declared is not None or told
    silence = silence_of(grant.plays)
    grant.passes(seconds=silence - 60)
    assert declared is None or declared.total_seconds() <= silence
    assert (await grant.asked()).verdict is Verdict.RENEWED
    other.passes(seconds=120)
    assert (await other.asked()).verdict is Verdict.GRANT_DEAD


@pytest.mark.parametrize("name", [n for n in PLAYED if PLAYS[n].refresh_lifetime_s])
async def test_an_absolute_end_comes_whatever_we_do(converse: Converse, name: str) -> None:
    """And the entry knows it: so a person is warned in time."""
    grant = converse(name)
    ends = grant.plays.refresh_lifetime_s or 0
    lives = grant.provider.lifetimes
    assert lives.refresh is not None
    assert lives.refresh.total_seconds() == ends
    step = 0.9 * silence_of(replace(grant.plays, refresh_lifetime_s=ends / 4))
    for _ in range(int(ends / step)):
        grant.passes(seconds=step)
        await grant.renew()
    grant.passes(seconds=step)
    assert (await grant.asked()).verdict is Verdict.GRANT_DEAD


# ---------------------------------------------------------------- a login's token, exchanged once

FIRST = [name for name in PLAYED if PLAYS[name].first]


@pytest.mark.parametrize("name", FIRST)
async def test_a_logins_token_is_exchanged_in_its_hour_and_then_renewed_for_months(
    converse: Converse, name: str
) -> None:
    """It cannot be renewed, and what can be renewed cannot be exchanged so."""
    grant = converse(name)
    assert grant.first
    ordinary = replace(grant, first=False)
    assert (await ordinary.asked()).verdict is not Verdict.RENEWED
    for _ in range(4):
        await grant.renew()
        assert grant.opens()
    assert grant.ledger()["exchanges"] == 4
    again = replace(grant, first=True)
    assert (await again.asked()).verdict is not Verdict.RENEWED


@pytest.mark.parametrize("name", FIRST)
async def test_a_secret_that_is_wrong_at_the_first_exchange_costs_no_grant(
    converse: Converse, name: str
) -> None:
    grant = converse(name)
    wrong = replace(grant.connection, client_secret=Secret("changed"))
    reading = await replace(grant, connection=wrong).asked()
    assert reading.verdict in (Verdict.TRANSIENT, Verdict.CONFIG_WRONG)
    await grant.renew()


# ---------------------------------------------------------------- nothing to renew


@pytest.mark.parametrize("name", [n for n in ENDLESS if PLAYS[n].gives_tokens])
def test_what_cannot_be_renewed_lives_as_long_as_the_entry_says(
    converse: Converse, name: str
) -> None:
    grant = converse(name)
    assert grant.provider.spends == ""
    assert len(grant.provider.not_renewable or "") > 20
    told = grant.tokens.expires_at
    imported = grant.provider.read_imported(
        access_token=grant.tokens.access_token,
        refresh_token=None,
        expires_in=grant.plays.access_lifetime_s if told else None,
        issued_at=grant.tokens.issued_at,
        now=grant.now(),
    )
    assert grant.opens()
    assert imported.expires_at == told
    if told:
        grant.passes(seconds=grant.plays.access_lifetime_s)
        assert not grant.opens()


@pytest.mark.parametrize("name", [n for n in ENDLESS if not PLAYS[n].gives_tokens])
def test_a_login_without_oauth_brings_nothing(hall: RunningStage, name: str) -> None:
    user_id = hall.login(name, f"user{next(_NUMBER)}")
    found = hall.stage.tenant.users[user_id].identities[0]
    assert (found.access_token, found.refresh_token, found.expires_in) == (None, None, None)
