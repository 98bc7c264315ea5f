"""What an API key's scope covers."""

import pytest

from worker.domain.access import ApiKey, Verb, bootstrap_key, parse_scope
from worker.domain.errors import ConfigurationError
from worker.domain.secret import Secret

USER = "google-oauth2|104"


@pytest.mark.parametrize(
    ("scope", "asked", "covered"),
    [
        ("acme", (Verb.READ, "acme", "google", USER), True),
        ("*", (Verb.READ, "acme", "google", USER), True),
        ("acme", (Verb.RENEW, "acme", "google", USER), False),
        ("acme", (Verb.STATUS, "acme", "google", USER), True),
        ("status:acme", (Verb.READ, "acme", "google", USER), False),
        ("read,renew:acme", (Verb.RENEW, "acme", "google", USER), True),
        ("acme/google", (Verb.READ, "acme", "google", USER), True),
        ("acme/google", (Verb.READ, "acme", "google-2", USER), False),
        ("acme/google*", (Verb.READ, "acme", "google-2", USER), True),
        ("acme/*/google-oauth2|*", (Verb.READ, "acme", "x", USER), True),
        ("acme/*/google-oauth2%7C*", (Verb.READ, "acme", "x", USER), True),
        ("acme/*/auth0|*", (Verb.READ, "acme", "x", USER), False),
        ("acme/*/a%2Fb", (Verb.READ, "acme", "x", "a/b"), True),
        ("acme/*/a%2A", (Verb.READ, "acme", "x", "ab"), False),
        ("acme/*/a%2A", (Verb.READ, "acme", "x", "a*"), True),
        ("acme/*/a.c", (Verb.READ, "acme", "x", "abc"), False),
        ("acm", (Verb.READ, "acme", "x", USER), False),
        ("admin:acme", (Verb.ADMIN, "acme", "google", None), True),
        ("admin:acme/*/auth0|*", (Verb.ADMIN, "acme", "google", None), False),
        ("read:acme", (Verb.ADMIN, "acme", "google", None), False),
        ("read,own:acme", (Verb.READ, "acme", "google", USER), False),
    ],
)
def test_a_scope_covers_what_it_says(scope, asked, covered):
    assert parse_scope(scope).covers(*asked) is covered


@pytest.mark.parametrize("scope", ["", "a/b/c/d", "fly:acme", "a//b", "read:", "acme/"])
def test_a_scope_that_says_nothing_clear_is_refused(scope):
    with pytest.raises(ConfigurationError):
        parse_scope(scope)


def test_several_scopes_add_up():
    key = bootstrap_key(
        name="ops", secret=Secret("evg_0123456789abcdef"), scope="status:acme;read:acme/google"
    )
    assert key.allows(Verb.READ, "acme", "google", USER)
    assert not key.allows(Verb.READ, "acme", "github", USER)
    assert key.allows(Verb.STATUS, "acme", "github", USER)


def test_a_short_secret_is_refused_and_not_shown():
    with pytest.raises(ConfigurationError) as refused:
        bootstrap_key(name="app", secret=Secret("hunter2"), scope="*")
    assert "hunter2" not in str(refused.value)


def test_a_key_shows_no_digest():
    assert "digest" not in repr(ApiKey(name="a", digest=b"\x01", scopes=()))


def test_a_bound_key_counts_only_for_the_user_who_proved_himself():
    key = bootstrap_key(
        name="app", secret=Secret("evg_0123456789abcdef"), scope="read,own:acme;status:acme"
    )
    bound = key.bound_to(("acme", "auth0|a*"))
    assert bound.allows(Verb.READ, "acme", "google", "auth0|a*")
    assert not bound.allows(Verb.READ, "acme", "google", "auth0|ab")
    assert not key.bound_to(None).allows(Verb.READ, "acme", "google", "auth0|a*")
    assert key.bound_to(None).allows(Verb.STATUS, "acme", "google", USER)
    assert not key.needs_proof
