"""When a token ends, in every form providers tell it: for all values, not for some."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.providers.conftest import NOW
from worker.domain.grant import ExpiryKind
from worker.domain.secret import Secret
from worker.providers import expiry, imported
from worker.providers.vocabulary import Entry, Expiry, First, Lifetimes

LIVES = st.integers(1, 86_400 * 3650)  # seconds, up to ten years
SPELLINGS = st.sampled_from([int, float, str, lambda number: f" {number} ", lambda n: f"{n}.0"])
ZONES = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))]
)
OPAQUE = Secret("opaque")


def entry(*forms: Expiry, **keys: object) -> Entry:
    return Entry(display_name="x", expiry=list(forms), **keys)


def told(one: Entry, content: object, access_token: Secret = OPAQUE) -> expiry.Told:
    return expiry.told(one, content, access_token=access_token, asked_at=NOW)


@given(life=LIVES, spelt=SPELLINGS)
@pytest.mark.parametrize(("form", "scale"), [("seconds", 0), ("epoch", 1), ("epoch_ms", 1000)])
def test_a_number_is_read_however_it_is_spelt(form, scale, life, spelt):
    value = life if not scale else (int(NOW.timestamp()) + life) * scale
    found = told(entry(Expiry(form=form, path="end")), {"end": spelt(value)})
    assert (found.kind, found.at) == (ExpiryKind.AT, NOW + timedelta(seconds=life))
    assert found.problem == ""


@given(life=LIVES, zone=ZONES, letter=st.booleans())
def test_an_iso_instant_is_read_in_every_zone(life, zone, letter):
    text = (NOW + timedelta(seconds=life)).astimezone(zone).isoformat()
    text = text.replace("+00:00", "Z") if letter else text
    found = told(entry(Expiry(form="iso", path="end")), {"end": text})
    assert found.at == NOW + timedelta(seconds=life)


@given(life=LIVES)
def test_a_jwt_tells_its_own_end(life):
    token = Secret(jwt.encode({"exp": NOW + timedelta(seconds=life)}, "k" * 32, "HS256"))
    found = told(entry(Expiry(form="jwt_exp", path="access_token")), {}, token)
    assert found.at == NOW + timedelta(seconds=life)


FORMS = st.sampled_from(["seconds", "epoch", "epoch_ms", "iso"])
ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.datetimes().map(datetime.isoformat)
    | st.lists(st.integers(), max_size=2)
)


@given(form=FORMS, value=ANYTHING, zero=st.sampled_from(["never", "untold"]))
def test_nothing_whatever_makes_an_end_that_is_over_or_absurd(form, value, zero):
    """Untold, never and a moment stay three things; nonsense is none of the last two."""
    found = told(entry(Expiry(form=form, path="end"), zero_means=zero), {"end": value})
    assert (found.at is not None) == (found.kind is ExpiryKind.AT)
    if found.at is not None:
        assert NOW < found.at <= NOW + expiry.LONGEST
    if found.kind is ExpiryKind.NEVER:
        assert zero == "never"
        assert form == "seconds"
        assert expiry.number(value) == 0


@given(life=LIVES, declared=st.integers(1, 999))
def test_what_is_told_goes_before_what_is_declared(life, declared):
    one = entry(
        Expiry(form="seconds", path="expires_in"),
        Expiry(form="declared"),
        lifetimes=Lifetimes(access=f"{declared}h"),
    )
    assert told(one, {"expires_in": life}).at == NOW + timedelta(seconds=life)
    for nothing in ({}, {"expires_in": None}, {"expires_in": ""}, {"expires_in": "soon"}):
        assert told(one, nothing).at == NOW + timedelta(hours=declared)


@pytest.mark.parametrize("zero", [0, "0", 0.0, "0.0"])
def test_zero_is_never_where_the_entry_says_so_and_nothing_elsewhere(zero):
    form = Expiry(form="seconds", path="expires_in")
    assert told(entry(form, zero_means="never"), {"expires_in": zero}).kind is ExpiryKind.NEVER
    assert told(entry(form), {"expires_in": zero}).kind is ExpiryKind.UNTOLD


@given(
    value=ANYTHING,
    issued=st.none() | st.integers(0, 86_400 * 400),
    refreshable=st.booleans(),
    zero=st.sampled_from(["never", "untold"]),
    absent=st.sampled_from(["never", "untold"]),
    declared=st.sampled_from(["", "1h"]),
    first=st.sampled_from([None, First(lives="1h")]),
)
def test_auth0s_copy_is_never_taken_for_fresher_than_it_may_be(
    value, issued, refreshable, zero, absent, declared, first
):
    """Without a time of issue a lifetime says nothing of today: such a token counts as due."""
    one = Entry(
        display_name="x",
        zero_means=zero,
        absent_means=absent,
        lifetimes=Lifetimes(access=declared),
        first=first,
    )
    issued_at = None if issued is None else NOW - timedelta(seconds=issued)
    found = imported.read(
        one,
        access_token=OPAQUE,
        refresh_token=Secret("r") if refreshable else None,
        expires_in=value,
        issued_at=issued_at,
        now=NOW,
    )
    assert (found.expires_at is not None) == (found.kind is ExpiryKind.AT)
    number = expiry.number(value)
    lifetime = number is not None and number < 1e9
    if lifetime and number > 0 and found.kind is ExpiryKind.AT:
        told_end = None if issued_at is None else issued_at + timedelta(seconds=number)
        assert found.expires_at in (NOW, told_end)
    if found.kind is ExpiryKind.NEVER:
        assert "never" in (zero, absent)
    assert not found.first or first is not None
