"""What a provider makes of a refresh token, by class; a provider's clock is moved by hand."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.rehearsal.families import Issued, RefusedError
from worker.rehearsal.issuer import Issuer
from worker.rehearsal.profiles import Profile, built, profiles

SHIPPED = tomllib.loads(files("worker.rehearsal").joinpath("profiles.toml").read_text())


@dataclass
class Time:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def issuer(name: str, time: Time | None = None, **keys: Any) -> tuple[Issuer, Time]:
    time = time or Time()
    return Issuer(profiles()[name], seed="test", clock=time, **keys), time


def with_keys(**keys: Any) -> Profile:
    """A profile made for a test, on the defaults."""
    return built("mine", {"defaults": SHIPPED["defaults"], "mine": {"strategy": "oauth2", **keys}})


def token(issued: Issued) -> str:
    assert issued.refresh_token is not None
    return issued.refresh_token


def spent_twice(provider: Issuer) -> tuple[Issued, Issued]:
    first = token(provider.login("rosa", "app"))
    return provider.refresh(first, "app"), provider.refresh(first, "app")


# ---------------------------------------------------------------- classes


def test_a_refresh_token_that_does_not_rotate_is_spent_for_ever() -> None:
    """Google: https://developers.google.com/identity/protocols/oauth2/web-server"""
    provider, _ = issuer("google-oauth2")
    first = token(provider.login("rosa", "app"))
    answers = [provider.refresh(first, "app") for _ in range(5)]
    assert all(one.refresh_token is None for one in answers)
    assert len({one.access_token for one in answers}) == 5


def test_google_gives_a_refresh_token_at_the_first_consent_only() -> None:
    provider, _ = issuer("google-oauth2")
    assert provider.login("rosa", "app").refresh_token
    assert provider.login("rosa", "app").refresh_token is None
    assert provider.login("rosa", "app", prompt_consent=True).refresh_token
    provider.withdraw("rosa")
    assert provider.login("rosa", "app").refresh_token


def test_microsoft_leaves_the_old_refresh_token_valid() -> None:
    """https://learn.microsoft.com/entra/identity-platform/refresh-tokens"""
    provider, _ = issuer("waad")
    first = token(provider.login("rosa", "app"))
    second = token(provider.refresh(first, "app"))
    assert first != second
    assert token(provider.refresh(first, "app")) != second
    provider.refresh(second, "app")


def test_single_use_refuses_a_spent_token_and_lets_the_family_live() -> None:
    """GitHub Apps, box.com: a spent refresh token is simply no good."""
    provider, _ = issuer("box")
    first = token(provider.login("rosa", "app"))
    second = token(provider.refresh(first, "app"))
    with pytest.raises(RefusedError, match="dead"):
        provider.refresh(first, "app")
    provider.refresh(second, "app")
    assert provider.grants["rosa", "app"].counts.reused == 1


def test_reuse_revokes_the_family_where_the_provider_says_so() -> None:
    """RFC 9700 section 4.14.2: access tokens too."""
    provider, _ = issuer("oauth2")
    first = token(provider.login("rosa", "app"))
    second = provider.refresh(first, "app")
    with pytest.raises(RefusedError):
        provider.refresh(first, "app")
    with pytest.raises(RefusedError):
        provider.refresh(token(second), "app")
    assert provider.access(second.access_token) is None
    counts = provider.grants["rosa", "app"].counts
    assert (counts.families_lost, counts.reused, counts.most_spends) == (1, 1, 2)


def test_another_login_is_another_family() -> None:
    provider, _ = issuer("oauth2")
    first = token(provider.login("rosa", "app"))
    other = token(provider.login("rosa", "app"))
    provider.refresh(first, "app")
    with pytest.raises(RefusedError):
        provider.refresh(first, "app")
    provider.refresh(other, "app")


def test_grace_same_answers_with_the_successor_again() -> None:
    """IdentityServer, Xero: as often as asked inside the window."""
    provider, _ = issuer("oauth2-same")
    one, other = spent_twice(provider)
    assert one.refresh_token == other.refresh_token
    assert one.access_token != other.access_token
    assert provider.grants["rosa", "app"].counts.reused_in_grace == 1


def test_grace_siblings_all_live() -> None:
    """Okta: https://developer.okta.com/docs/guides/refresh-tokens/main/"""
    provider, _ = issuer("okta")
    one, other = spent_twice(provider)
    assert one.refresh_token != other.refresh_token
    provider.refresh(token(one), "app")
    provider.refresh(token(other), "app")


def test_grace_newest_keeps_only_the_newest_sibling() -> None:
    """Airlock IAM: only the youngest successor may be used."""
    provider, _ = issuer("oauth2-grace")
    one, other = spent_twice(provider)
    provider.refresh(token(other), "app")
    with pytest.raises(RefusedError):
        provider.refresh(token(one), "app")


@pytest.mark.parametrize(
    ("name", "grace"), [("bitbucket", 600), ("atlassian", 600), ("okta", 30), ("oauth2-same", 30)]
)
def test_the_grace_ends_on_time(name: str, grace: float) -> None:
    """Bitbucket: git-ecosystem/git-credential-manager#2433; Atlassian: community t/54172."""
    provider, time = issuer(name)
    first = token(provider.login("rosa", "app"))
    provider.refresh(first, "app")
    time.now += grace - 0.01
    provider.refresh(first, "app")
    time.now += 0.02
    with pytest.raises(RefusedError):
        provider.refresh(first, "app")


def test_shopify_keeps_the_old_one_until_the_new_one_is_used() -> None:
    """https://shopify.dev/changelog/more-resilient-refreshes-for-expiring-offline-access-tokens"""
    provider, time = issuer("shopify")
    first = token(provider.login("rosa", "app"))
    provider.refresh(first, "app")
    time.now += 86_400
    second = token(provider.refresh(first, "app"))
    provider.refresh(second, "app")
    with pytest.raises(RefusedError):
        provider.refresh(first, "app")


def test_doorkeeper_keeps_the_old_one_until_the_new_access_token_is_used() -> None:
    """doorkeeper-gem/doorkeeper lib/doorkeeper/models/access_token_mixin.rb"""
    provider, _ = issuer("doorkeeper")
    first = token(provider.login("rosa", "app"))
    provider.refresh(first, "app")
    again = provider.refresh(first, "app")
    assert provider.access(again.access_token)
    with pytest.raises(RefusedError):
        provider.refresh(first, "app")


# ---------------------------------------------------------------- access tokens


def test_a_refresh_kills_the_old_access_token_at_github_and_gitlab() -> None:
    """docs.github.com, refreshing-user-access-tokens; docs.gitlab.com/api/oauth2"""
    for name in ("github-app", "gitlab"):
        provider, _ = issuer(name)
        first = provider.login("rosa", "app")
        second = provider.refresh(token(first), "app")
        assert provider.access(first.access_token) is None
        assert provider.access(second.access_token)


def test_at_atlassian_it_dies_ten_minutes_later() -> None:
    """https://community.developer.atlassian.com/t/83103"""
    provider, time = issuer("atlassian")
    first = provider.login("rosa", "app")
    time.now += 60
    provider.refresh(token(first), "app")
    time.now += 599
    assert provider.access(first.access_token)
    time.now += 2
    assert provider.access(first.access_token) is None


def test_an_access_token_lives_for_its_lifetime() -> None:
    provider, time = issuer("waad", access_lifetime_s=5)
    issued = provider.login("rosa", "app")
    time.now += 4.9
    assert provider.access(issued.access_token)
    time.now += 0.2
    assert provider.access(issued.access_token) is None
    counts = provider.grants["rosa", "app"].counts
    assert (counts.reads, counts.stale_reads) == (1, 1)


def test_meta_exchanges_a_living_access_token_only() -> None:
    """https://developers.facebook.com/docs/facebook-login/guides/access-tokens/get-long-lived"""
    provider, time = issuer("facebook", access_lifetime_s=100)
    issued = provider.login("rosa", "app")
    assert issued.refresh_token is None
    time.now += 50
    second = provider.refresh(issued.access_token, "app")
    assert second.refresh_token is None
    time.now += 60
    provider.refresh(second.access_token, "app")
    with pytest.raises(RefusedError, match="dead"):
        provider.refresh(issued.access_token, "app")


def test_instagram_wants_it_a_day_old() -> None:
    """https://developers.facebook.com/docs/instagram-platform/reference/refresh_access_token"""
    provider, time = issuer("instagram")
    login = provider.login("rosa", "app")
    with pytest.raises(RefusedError, match="bad_request"):
        provider.refresh(login.access_token, "app")
    issued = provider.refresh(login.access_token, "app", first=True)
    with pytest.raises(RefusedError, match="bad_request"):
        provider.refresh(issued.access_token, "app")
    time.now += 86_401
    with pytest.raises(RefusedError, match="bad_request"):
        provider.refresh(issued.access_token, "app", first=True)
    provider.refresh(issued.access_token, "app")


def test_the_token_of_an_instagram_login_lives_an_hour() -> None:
    """https://developers.facebook.com/docs/instagram-platform/reference/access_token"""
    provider, time = issuer("instagram")
    login = provider.login("rosa", "app")
    time.now += 3601
    with pytest.raises(RefusedError, match="dead"):
        provider.refresh(login.access_token, "app", first=True)


def test_exact_refuses_to_be_early() -> None:
    """websmurf/laravel-exact-online#31"""
    provider, time = issuer("exact")
    first = token(provider.login("rosa", "app"))
    with pytest.raises(RefusedError, match="too_early"):
        provider.refresh(first, "app")
    time.now += 600 - 29
    provider.refresh(first, "app")


# ---------------------------------------------------------------- ends


def test_a_user_who_withdraws_kills_everything() -> None:
    provider, _ = issuer("waad")
    issued = provider.login("rosa", "app")
    assert provider.withdraw("rosa") == 1
    assert provider.access(issued.access_token) is None
    with pytest.raises(RefusedError, match="dead"):
        provider.refresh(token(issued), "app")


def test_past_the_limit_the_oldest_login_dies() -> None:
    """Google 100, GitHub ten, Salesforce five."""
    provider, _ = issuer("salesforce")
    tokens = [token(provider.login("rosa", "app")) for _ in range(6)]
    with pytest.raises(RefusedError):
        provider.refresh(tokens[0], "app")
    provider.refresh(tokens[1], "app")


def test_idle_and_absolute_ends() -> None:
    profile = with_keys(refresh_idle_s=100, refresh_lifetime_s=250)
    time = Time()
    provider = Issuer(profile, seed="test", clock=time)
    first = token(provider.login("rosa", "app"))
    for _ in range(2):
        time.now += 90
        provider.refresh(first, "app")
    time.now += 90  # used in time, but too old
    with pytest.raises(RefusedError):
        provider.refresh(first, "app")
    idle = token(provider.login("ingo", "app"))
    time.now += 101
    with pytest.raises(RefusedError):
        provider.refresh(idle, "app")


@pytest.mark.parametrize("effect", ["token", "family", "grant"])
def test_revocation_reaches_as_far_as_the_profile_says(effect: str) -> None:
    """GitHub: this token; RFC 7009: this login; Google: every login."""
    provider, _ = issuer("waad")
    one, other = provider.login("rosa", "app"), provider.login("rosa", "app")
    assert provider.revoke(one.access_token, effect)
    alive = [provider.access(each.access_token) is not None for each in (one, other)]
    renewable = [_can_refresh(provider, each) for each in (one, other)]
    assert alive == [False, effect != "grant"]
    assert renewable == [effect == "token", effect != "grant"]


def _can_refresh(provider: Issuer, issued: Issued) -> bool:
    try:
        provider.refresh(token(issued), "app")
    except RefusedError:
        return False
    return True


def test_another_clients_token_is_refused() -> None:
    provider, _ = issuer("waad")
    first = token(provider.login("rosa", "app"))
    with pytest.raises(RefusedError):
        provider.refresh(first, "another")


@given(st.text(max_size=80))
def test_a_forged_token_is_nobodys(text: str) -> None:
    provider, _ = issuer("oauth2")
    provider.login("rosa", "app")
    for forged in (text, f"rt-{text}", f"rt-1-0-0-{text}", f"at-1-1-0-{text}"):
        assert provider.access(forged) is None
        with pytest.raises(RefusedError, match="dead"):
            provider.refresh(forged, "app")


def test_two_exchanges_of_one_token_at_once_are_counted() -> None:
    provider, _ = issuer("oauth2")
    first = token(provider.login("rosa", "app"))
    with provider.exchanging(first), provider.exchanging(first):
        pass
    with provider.exchanging(first):
        pass
    assert provider.grants["rosa", "app"].counts.overlaps == 1


def test_the_same_seed_gives_the_same_tokens() -> None:
    one, other = (issuer("bitbucket")[0].login("rosa", "app") for _ in range(2))
    assert one.access_token == other.access_token
    assert one.refresh_token == other.refresh_token


@pytest.mark.parametrize("name", ["box", "okta", "oauth2-grace", "atlassian"])
def test_memory_does_not_grow_with_the_number_of_refreshes(name: str) -> None:
    provider, time = issuer(name)
    issued = provider.login("rosa", "app")
    for _ in range(2000):
        issued = provider.refresh(token(issued), "app")
        time.now += 1
    family = next(iter(provider.grants["rosa", "app"].families.values()))
    sizes = [len(family.live), len(family.spent), len(family.floors), len(family.dead_access)]
    assert max(sizes) <= 64


def test_an_unknown_key_of_a_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="rotatoin"):
        with_keys(rotatoin="none")
