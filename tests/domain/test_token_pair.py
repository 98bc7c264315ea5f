"""An OAuth 1.0a token and its secret travel as one, and come apart as they were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.domain.secret import Secret
from worker.domain.token_pair import joined, parted

TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1)


@given(token=TEXTS, secret=st.none() | TEXTS)
def test_what_is_joined_parts_as_it_was(token, secret):
    pair = (Secret(token), None if secret is None else Secret(secret))
    assert parted(joined(*pair)) == pair


@given(kept=st.binary(min_size=1))
def test_whatever_is_kept_parts_without_a_loss(kept):
    token, secret = parted(Secret(kept))
    assert joined(token, secret) == Secret(kept)
