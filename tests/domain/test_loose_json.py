"""JSON that strict readers refuse is mended where it can be, and taken apart where it cannot."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.loose_json import elements, mended

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.lists(values), st.booleans(), st.sampled_from([None, 2]))
def test_an_array_falls_apart_into_its_elements(given_, ascii_, indent):
    text = json.dumps(given_, ensure_ascii=ascii_, indent=indent).encode("utf-8", "surrogatepass")
    assert [json.loads(part) for part in elements(text)] == given_


@given(st.binary(max_size=200))
def test_no_bytes_break_it(text):
    for read in (mended, elements):
        with suppress(ValueError):
            read(text)


@pytest.mark.parametrize("unit", [b'"', b'"\\', b'\\"', b"[", b"]", b",", b'"a",', b"{"])
@pytest.mark.timeout(120)
def test_no_bytes_take_long(unit):
    """A reader that begins anew at each quotation mark would be at it for hours."""
    elements(b"[" + unit * 500_000)


@given(values.filter(lambda value: "\\ud8" not in json.dumps(value)))
def test_what_is_right_keeps_its_meaning(value):
    assert json.loads(mended(json.dumps(value).encode())) == value


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (b'"\\ud83d"', "\ufffd"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\xff"', "\ufffd"),
        (b'"a\nb"', "a\nb"),
        (b"[NaN, -Infinity, 1e400]", [None, None, None]),
        (b"9" * 400, None),
        (b"[12, -5, 1.5]", [12, -5, 1.5]),
    ],
)
def test_what_is_nearly_right_is_mended(text, meant):
    assert json.loads(mended(text)) == meant


@pytest.mark.parametrize("inner", [b"[]", b'{"x": "]"}', b'[{}, "[", 1]'])
def test_what_is_too_deep_is_nothing_and_what_stands_beside_it_is_kept(inner):
    deep = b"[[]," * 10_000 + inner + b"]" * 10_000
    told = json.loads(mended(b'{"a": ' + deep + b', "b": [' + inner + b'], "c": "x"}'))
    assert (told["b"], told["c"]) == ([json.loads(inner)], "x")
    assert json.dumps(told["a"]).count("[") <= 2 * 64  # and no reader stumbles over it


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 10_000, b"hello"])
def test_what_is_not_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        mended(text)


def test_what_is_cut_off_is_an_element_too():
    assert elements(b'[{"a": 1}, {"b": [2') == [b'{"a": 1}', b'{"b": [2']
    with pytest.raises(ValueError, match="no array"):
        elements(b'{"a": 1}')
