"""Whatever Auth0 answers, now or in years: it is read as far as it makes sense, and never raises.

The shapes that are sure are judged by auth0-python's own models, which we did not write.
"""

from __future__ import annotations

from typing import Any

import pytest
from auth0.management.types import GetUserResponseContent
from hypothesis import given
from hypothesis import strategies as st

from worker.auth0.answers import connection_of, user_of
from worker.domain.secret import Secret

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
USER = {
    "user_id": "google-oauth2|1",
    "logins_count": 3,
    "last_login": "2026-11-20T14:02:11.401Z",
    "created_at": "2025-03-02T08:11:40.120Z",
    "identities": [
        {
            "connection": "google-oauth2",
            "provider": "google-oauth2",
            "user_id": "1",
            "isSocial": True,
            "access_token": "at-canary",
            "refresh_token": "rt-canary",
            "expires_in": 3599,
        }
    ],
}
CONNECTION = {
    "id": "con_1",
    "name": "acme",
    "strategy": "google-apps",
    "options": {"client_id": "c", "client_secret": "cs-canary", "admin_access_token": "a-canary"},
    "authentication": {"active": True},
    "connected_accounts": {"active": False},
}


def changed(body: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """`body` with fields missing, added, or of another kind altogether."""
    names = st.sampled_from(sorted(body))
    return st.builds(
        lambda less, other, more: {
            **{name: value for name, value in body.items() if name not in less},
            **other,
            **{f"new_{name}": value for name, value in more.items()},
        },
        st.sets(names),
        st.dictionaries(names, JSON, max_size=2),
        st.dictionaries(st.text(max_size=6), JSON, max_size=2),
    )


IDENTITIES = st.lists(changed(USER["identities"][0]) | JSON, max_size=3)  # type: ignore[index]  # a literal above


@given(changed(USER), IDENTITIES)
def test_a_user_is_read_whatever_is_missing_added_or_strange(
    body: dict[str, Any], identities: list[Any]
) -> None:
    for one in (body, {**body, "identities": identities}):
        user = user_of(one)
        assert isinstance(user.user_id, str)
        assert isinstance(user.blocked, bool)
        assert user.last_login is None or user.last_login.tzinfo is not None
        for identity in user.identities:
            assert identity.connection
            assert identity.user_id
            for token in (identity.access_token, identity.refresh_token):
                assert token is None or isinstance(token, Secret)
        assert "canary" not in repr(user)


@given(changed(CONNECTION))
def test_a_connection_is_read_whatever_is_missing_added_or_strange(body: dict[str, Any]) -> None:
    found = connection_of(body)
    if found is None:
        return
    assert found.name
    assert found.options is None or found.options
    assert isinstance(found.vault_active, bool)
    assert "canary" not in repr(found)


@given(st.dictionaries(st.text(max_size=10), JSON, max_size=4))
def test_fields_nobody_knows_change_nothing(more: dict[str, Any]) -> None:
    fresh = {f"x_{name}": value for name, value in more.items()}
    identity = {**USER["identities"][0], **fresh}  # type: ignore[index]  # a literal
    assert user_of({**USER, **fresh, "identities": [identity]}) == user_of(USER)
    assert connection_of({**CONNECTION, **fresh}) == connection_of(CONNECTION)


@pytest.mark.parametrize(
    ("told", "read"),
    [(7, "7"), ("7", "7"), ("{6f1d-0002}", "{6f1d-0002}"), (True, None), (None, None), ("", None)],
)
def test_an_identitys_id_may_be_a_number(told: object, read: str | None) -> None:
    user = user_of({**USER, "identities": [{"connection": "c", "user_id": told}]})
    assert [one.user_id for one in user.identities] == ([read] if read else [])


@pytest.mark.parametrize("blocked", [True, False, None, "true", 1])
def test_only_a_plain_true_blocks(blocked: object) -> None:
    assert user_of({**USER, "blocked": blocked}).blocked is (blocked is True)


@pytest.mark.parametrize("told", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_beyond_all_calendars_is_none(told: str) -> None:
    """A user who was imported may have any."""
    assert user_of({**USER, "created_at": told}).created_at is None


def test_auth0s_own_model_reads_the_same_of_a_user() -> None:
    theirs = GetUserResponseContent.model_validate({**USER, "blocked": True})
    ours = user_of({**USER, "blocked": True})
    assert (ours.user_id, ours.blocked, ours.logins_count) == (
        theirs.user_id,
        theirs.blocked,
        theirs.logins_count,
    )
    (mine,), (others,) = ours.identities, theirs.identities or []
    assert (mine.connection, mine.provider, mine.user_id) == (
        others.connection,
        others.provider,
        others.user_id,
    )
    assert mine.refresh_token is not None
    assert mine.refresh_token.text() == others.refresh_token
