"""Answers: pulled apart before they are judged, and judged by words before statuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import jwt
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.providers.conftest import NOW, a_connection, an_answer
from worker.domain.exchange import Answered, Verdict
from worker.domain.grant import ExpiryKind
from worker.domain.secret import Secret
from worker.providers import load_catalogue

CATALOGUE = load_catalogue({}, allow_loopback=False)
HOUR = timedelta(hours=1)
RENEWED, TRANSIENT = Verdict.RENEWED, Verdict.TRANSIENT
DEAD, CONFIG = Verdict.GRANT_DEAD, Verdict.CONFIG_WRONG


def provider(name: str):
    return CATALOGUE.entry(name, a_connection(name))


def read(name: str, answer: Answered):
    return provider(name).read(answer, asked_at=NOW)


def test_a_plain_answer_renews():
    content = {"access_token": "a2", "refresh_token": "r2", "expires_in": 3600, "scope": "x y"}
    reading = read("oauth2", an_answer(content | {"token_type": "bearer"}))
    assert reading.verdict is RENEWED
    assert reading.problem == ""
    tokens = reading.tokens
    assert tokens.access_token == Secret("a2")
    assert tokens.refresh_token == Secret("r2")
    assert tokens.expires_at == NOW + HOUR
    assert tokens.scope == "x y"


KEEPS = {
    "absent": {},
    "empty": {"refresh_token": ""},
    "null": {"refresh_token": None},
    "a list": {"refresh_token": ["r"]},
    "true": {"refresh_token": True},
}


@pytest.mark.parametrize("extra", KEEPS.values(), ids=KEEPS)
def test_an_answer_without_a_refresh_token_keeps_the_old_one(extra):
    reading = read("google-oauth2", an_answer({"access_token": "a", "expires_in": 60} | extra))
    assert reading.verdict is RENEWED
    assert reading.tokens.refresh_token is None


def test_a_refresh_token_that_is_a_number_is_its_digits():
    reading = read("oauth2", an_answer({"access_token": "a", "refresh_token": 4711}))
    assert reading.tokens.refresh_token == Secret("4711")


# expires_in → seconds, or None: not told
LIFETIMES = {
    "number": (3600, 3600),
    "text": ("3600", 3600),
    "float": (59.5, 59.5),
    "half a second": (0.5, 1),
    "zero": (0, None),
    "negative": (-1, None),
    "huge": (1e99, None),
    "beyond a century": (4e9, None),
    "word": ("soon", None),
    "true": (True, None),
    "NaN as text": ("NaN", None),
    "infinity as text": ("Infinity", None),
    "list": ([3600], None),
    "missing": (None, None),
}


@pytest.mark.parametrize(("told", "seconds"), LIFETIMES.values(), ids=LIFETIMES)
def test_a_lifetime_is_read_in_whatever_form_it_comes(told, seconds):
    reading = read("oauth2", an_answer({"access_token": "a", "expires_in": told}))
    assert reading.verdict is RENEWED
    if seconds is None:
        assert reading.tokens.expiry is ExpiryKind.UNTOLD
    else:
        assert reading.tokens.expires_at == NOW + timedelta(seconds=seconds)


def test_an_entry_declares_the_lifetime_that_an_answer_does_not_tell():
    tokens = read("stripe-app", an_answer({"access_token": "a"})).tokens
    assert tokens.expires_at == NOW + HOUR


def test_nonsense_about_expiry_is_noted():
    reading = read("oauth2", an_answer({"access_token": "a", "expires_in": -5}))
    assert "expiry" in reading.problem


def with_forms(*forms: dict[str, str], **keys: object):
    connection = a_connection("oauth2", overrides={"expiry": list(forms), **keys})
    return CATALOGUE.entry("oauth2", connection)


EPOCH = (NOW + HOUR).timestamp()
FORMS = {
    "epoch": ({"form": "epoch", "path": "at"}, {"at": EPOCH}),
    "epoch as text": ({"form": "epoch", "path": "at"}, {"at": str(int(EPOCH))}),
    "milliseconds": ({"form": "epoch_ms", "path": "at"}, {"at": EPOCH * 1000}),
    "iso": ({"form": "iso", "path": "data.at"}, {"data": {"at": "2026-11-23T13:00:00Z"}}),
    "iso with an offset": ({"form": "iso", "path": "at"}, {"at": "2026-11-23T14:00:00+01:00"}),
    "iso without one": ({"form": "iso", "path": "at"}, {"at": "2026-11-23T13:00:00"}),
}


@pytest.mark.parametrize(("form", "extra"), FORMS.values(), ids=FORMS)
def test_an_absolute_end_is_read(form, extra):
    answer = an_answer({"access_token": "a"} | extra)
    assert with_forms(form).read(answer, asked_at=NOW).tokens.expires_at == NOW + HOUR


def test_the_exp_claim_of_a_jwt_is_read():
    token = jwt.encode({"exp": int(EPOCH)}, "k" * 32, "HS256")
    form = {"form": "jwt_exp", "path": "access_token"}
    reading = with_forms(form).read(an_answer({"access_token": token}), asked_at=NOW)
    assert reading.tokens.expires_at == NOW + HOUR


def test_forms_are_tried_in_order():
    forms = [{"form": "seconds", "path": "expires_in"}, {"form": "epoch", "path": "at"}]
    answer = an_answer({"access_token": "a", "expires_in": "never", "at": EPOCH})
    assert with_forms(*forms).read(answer, asked_at=NOW).tokens.expires_at == NOW + HOUR


def test_zero_means_never_where_the_entry_says_so():
    answer = an_answer({"access_token": "a", "expires_in": 0, "scope": None})
    assert read("mailchimp", answer).tokens.expiry is ExpiryKind.NEVER
    assert read("oauth2", answer).tokens.expiry is ExpiryKind.UNTOLD


def test_the_end_of_the_refresh_token_is_read_where_it_is_told():
    content = {"access_token": "a", "x_refresh_token_expires_in": 8640000}
    tokens = read("quickbooks", an_answer(content)).tokens
    assert tokens.refresh_expires_at == NOW + timedelta(days=100)


def test_scopes_come_as_text_or_as_a_list():
    assert (
        read("twitch", an_answer({"access_token": "a", "scope": ["x", "y"]})).tokens.scope == "x y"
    )
    assert read("bitbucket", an_answer({"access_token": "a", "scopes": "x"})).tokens.scope == "x"


def test_an_unknown_token_type_is_tolerated_and_noted():
    reading = read("oauth2", an_answer({"access_token": "a", "token_type": "mac"}))
    assert (reading.verdict, reading.tokens.token_type) == (RENEWED, "mac")
    assert "token_type" in reading.problem


def test_a_nested_answer_is_read_by_its_paths():
    form = an_answer({"response": {"access_token": "a"}})
    assert read("untappd", form).tokens.access_token == Secret("a")


def test_a_form_is_read_where_json_was_asked_for():
    reading = read("facebook", an_answer(body=b"access_token=a2&expires=5183999"))
    assert reading.tokens.expires_at == NOW + timedelta(seconds=5183999)


# entry, status, content → verdict, code
JUDGED = {
    "dead, by the book": ("oauth2", 400, {"error": "invalid_grant"}, DEAD, "invalid_grant"),
    "dead under 401": ("oauth2", 401, {"error": "invalid_grant"}, DEAD, "invalid_grant"),
    "dead under 403": ("atlassian", 403, {"error": "invalid_grant"}, DEAD, "invalid_grant"),
    "not dead under 500": ("oauth2", 500, {"error": "invalid_grant"}, TRANSIENT, "invalid_grant"),
    "not dead under 429": ("oauth2", 429, {"error": "invalid_grant"}, TRANSIENT, "invalid_grant"),
    "wrong client": ("oauth2", 401, {"error": "invalid_client"}, CONFIG, "invalid_client"),
    "wrong client under 400": (
        "oauth2",
        400,
        {"error": "invalid_client"},
        CONFIG,
        "invalid_client",
    ),
    "not allowed": ("oauth2", 400, {"error": "unauthorized_client"}, CONFIG, "unauthorized_client"),
    "busy": ("oauth2", 400, {"error": "temporarily_unavailable"}, TRANSIENT, None),
    "200 with an error": ("github-app", 200, {"error": "bad_refresh_token"}, DEAD, None),
    "200 with an error, anywhere": ("oauth2", 200, {"error": "invalid_grant"}, DEAD, None),
    "200 with the client's fault": (
        "github-app",
        200,
        {"error": "incorrect_client_credentials"},
        CONFIG,
        None,
    ),
    "200 ok false": ("slack", 200, {"ok": False, "error": "invalid_refresh_token"}, DEAD, None),
    "200 ok false, with a token": (
        "slack",
        200,
        {"ok": False, "error": "internal_error", "access_token": "a"},
        TRANSIENT,
        None,
    ),
    "200 ok false, unknown word": ("slack", 200, {"ok": False, "error": "new"}, TRANSIENT, "new"),
    "200 without a token": ("oauth2", 200, {}, TRANSIENT, "no_access_token"),
    "200, empty token": ("oauth2", 200, {"access_token": ""}, TRANSIENT, "no_access_token"),
    "200, a list": ("oauth2", 200, ["access_token"], TRANSIENT, "no_access_token"),
    "200, null": ("oauth2", 200, None, TRANSIENT, "no_access_token"),
    "line break in the token": (
        "oauth2",
        200,
        {"access_token": "a\r\nX-Admin: 1"},
        TRANSIENT,
        "bad_access_token",
    ),
    "error in an object": (
        "oauth2",
        400,
        {"error": {"code": "invalid_grant"}},
        DEAD,
        "invalid_grant",
    ),
    "error in a list": (
        "fitbit",
        401,
        {"errors": [{"errorType": "invalid_grant"}]},
        DEAD,
        "errorType:invalid_grant",
    ),
    "error as a status word": (
        "hubspot",
        400,
        {"status": "BAD_REFRESH_TOKEN", "message": "x"},
        DEAD,
        "status:BAD_REFRESH_TOKEN",
    ),
    "error as a field": ("strava", 400, {"errors": [{"field": "refresh_token"}]}, DEAD, None),
    "meta, dead": ("facebook", 400, {"error": {"code": 190, "type": "OAuthException"}}, DEAD, None),
    "meta, busy": (
        "facebook",
        400,
        {"error": {"code": 4, "type": "OAuthException"}},
        TRANSIENT,
        "code:4",
    ),
    "microsoft, dead": (
        "waad",
        400,
        {"error": "invalid_grant", "error_codes": [700082]},
        DEAD,
        "invalid_grant AADSTS700082",
    ),
    "microsoft, dead by a number nobody knows": (
        "waad",
        400,
        {"error": "invalid_grant", "error_codes": [999999]},
        DEAD,
        "invalid_grant AADSTS999999",
    ),
    "microsoft, expired client secret": (
        "waad",
        401,
        {"error": "invalid_client", "error_codes": [7000222]},
        CONFIG,
        "invalid_client AADSTS7000222",
    ),
    "microsoft, secret wrong though the word blames the grant": (
        "waad",
        400,
        {"error": "invalid_grant", "error_codes": [7000215]},
        CONFIG,
        "invalid_grant AADSTS7000215",
    ),
    "microsoft's loop breaker": (
        "waad",
        400,
        {"error": "invalid_grant", "error_codes": [50196]},
        TRANSIENT,
        "invalid_grant AADSTS50196",
    ),
    "microsoft, wrong endpoint for the tenant": (
        "waad",
        400,
        {"error": "invalid_request", "error_codes": [9001023]},
        CONFIG,
        None,
    ),
    "zoho, dead": ("zoho", 200, {"error": "invalid_code"}, DEAD, "invalid_code"),
    "zoho, throttled": ("zoho", 400, {"error": "Access Denied"}, TRANSIENT, "Access Denied"),
    "exact, too early": ("exact", 400, {"error": "access_denied"}, TRANSIENT, None),
    "planning center, dead": ("planningcenter", 400, {"error": "invalid_request"}, DEAD, None),
    "the same word, elsewhere": ("oauth2", 400, {"error": "invalid_request"}, CONFIG, None),
    "tumblr, dead": ("tumblr", 401, {}, DEAD, "http_401"),
    "401 without a word": ("oauth2", 401, {}, TRANSIENT, "http_401"),
    "zoom, client": ("zoom", 400, {"code": 4702}, CONFIG, "4702"),
    "unknown word": ("oauth2", 400, {"error": "gremlins"}, TRANSIENT, "gremlins"),
    "no such page": ("oauth2", 404, {}, CONFIG, "http_404"),
    "moved for good": ("oauth2", 308, {}, CONFIG, "http_308"),
    "moved for now": ("oauth2", 307, {}, TRANSIENT, "http_307"),
    "busy server": ("oauth2", 503, {}, TRANSIENT, "http_503"),
    "the word error proves nothing": (
        "oauth2",
        200,
        {"access_token": "a", "error": "invalid_grant"},
        RENEWED,
        "",
    ),
}


@pytest.mark.parametrize(
    ("name", "status", "content", "verdict", "code"), JUDGED.values(), ids=JUDGED
)
def test_the_verdict_of_an_answer(name, status, content, verdict, code):
    reading = read(name, an_answer(content, status=status))
    assert reading.verdict is verdict
    assert (reading.tokens is not None) == (verdict is RENEWED)
    if code is not None:
        assert reading.code == code


MICROSOFT = CATALOGUE["waad"].errors
NUMBERS = {
    verdict: [code for code in codes if code.startswith("AADSTS")]
    for verdict, codes in {
        TRANSIENT: [*MICROSOFT.transient, *MICROSOFT.too_often],
        CONFIG: MICROSOFT.config,
        DEAD: [*MICROSOFT.permanent, *MICROSOFT.heals],
    }.items()
}
ALL_NUMBERS = [code for codes in NUMBERS.values() for code in codes] + ["AADSTS999999"]


@given(
    word=st.sampled_from(["invalid_grant", "interaction_required", "gremlins"]),
    numbers=st.lists(st.sampled_from(ALL_NUMBERS), max_size=4),
    status=st.sampled_from([400, 401, 403]),
)
def test_numbers_excuse_a_grant_and_never_condemn_one_the_word_does_not(word, numbers, status):
    """Of all that is said the mildest counts, in whatever order it stands."""
    content = {"error": word, "error_codes": [int(code.removeprefix("AADSTS")) for code in numbers]}
    reading = read("waad", an_answer(content, status=status))
    found = [verdict for verdict, codes in NUMBERS.items() if set(numbers) & {*codes}]
    if word != "gremlins":
        found.append(DEAD)
    assert reading.verdict is (found[0] if found else TRANSIENT)
    assert reading.heals == (reading.verdict is DEAD and bool(set(numbers) & {*MICROSOFT.heals}))


def test_an_admins_policy_heals_with_the_same_refresh_token():
    content = {"error": "interaction_required", "error_codes": [53003]}
    reading = read("waad", an_answer(content, status=400))
    assert (reading.verdict, reading.heals) == (DEAD, True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("waad", {"error": "invalid_grant", "error_codes": [50196]}),
        ("zoho", {"error": "Access Denied"}),
    ],
)
def test_who_is_called_too_eager_asks_later_than_any_backoff_begins(name, content):
    reading = read(name, an_answer(content, status=400))
    assert (reading.verdict, reading.retry_after) == (TRANSIENT, timedelta(minutes=10))
    longer = read(name, an_answer(content, status=400, retry_after="3600"))
    assert longer.retry_after == timedelta(hours=1)
    shorter = read(name, an_answer(content, status=400, retry_after="5"))
    assert shorter.retry_after == timedelta(minutes=10)


def test_a_refusal_is_explained_by_its_number():
    reading = read(
        "waad", an_answer({"error": "invalid_grant", "error_codes": [700084]}, status=400)
    )
    assert "platform Web" in provider("waad").means(reading.code)
    assert provider("waad").means("invalid_grant") == ""


BASES = {
    "https://acme.my.salesforce.com": "https://acme.my.salesforce.com",
    "https://acme.my.salesforce.com/": "https://acme.my.salesforce.com",
    "https://acme.my.salesforce.com:8443/services": "https://acme.my.salesforce.com:8443/services",
    "http://acme.my.salesforce.com": "",
    "https://user@evil.example": "",
    "https://evil.example/?next=x": "",
    "https://evil.example\r\nX: 1": "",
    "javascript:alert(1)": "",
    "": "",
}


@pytest.mark.parametrize(("told", "base"), BASES.items(), ids=str)
def test_where_the_api_is_for_an_account_is_told_if_it_is_an_address(told, base):
    answer = an_answer({"access_token": "a", "instance_url": told})
    assert read("salesforce", answer).tokens.api_base == base
    assert read("google-oauth2", answer).tokens.api_base == ""


PAGE = b"<!DOCTYPE html><title>Sign in</title>"


@pytest.mark.parametrize("status", [200, 301, 401, 403, 404, 405, 500, 502])
def test_a_page_instead_of_json_condemns_nobody(status):
    for body in (PAGE, b"\n  <html>"):
        answer = Answered(status=status, headers={"content-type": "text/html"}, body=body)
        assert read("oauth2", answer).verdict is TRANSIENT


def test_what_a_provider_calls_an_error_cannot_carry_a_token_into_our_logs():
    reading = read("oauth2", an_answer({"error": "eyJhbGciOiJub25l" * 8}, status=400))
    assert reading.code == "unreadable"
    beside = read(
        "strava", an_answer({"errors": [{"field": "x"}], "message": "rt-5ec2e7"}, status=400)
    )
    assert beside.code == "errors.field:x"


WAITS = {
    "seconds": ("120", 120),
    "absurd": ("99999999999999999999", 86400),
    "zero": ("0", 0),
    "negative": ("-5", None),
    "word": ("soon", None),
    "fraction": ("1.5", None),
    "date": ("Mon, 23 Nov 2026 12:02:00 GMT", 120),
    "date in the past": ("Mon, 23 Nov 2020 12:02:00 GMT", None),
    "date next year": ("Tue, 23 Nov 2027 12:02:00 GMT", 86400),
    "date of nonsense": ("Mon, 99 Nov 2026 12:02:00 GMT", None),
    "date without a zone": ("Mon, 23 Nov 2026 12:02:00", None),
    "digits of another script": ("١٢", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize(("value", "seconds"), WAITS.values(), ids=WAITS)
def test_retry_after_is_obeyed_up_to_a_day(value, seconds):
    reading = read("oauth2", an_answer({}, status=429, retry_after=value))
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert (reading.verdict, reading.retry_after) == (TRANSIENT, expected)


WHOLE = b'{"access_token": "a\\u0032", "refresh_token": "r\\"2", "expires_in": 3600}'


def test_a_cut_answer_gives_up_every_token_that_is_whole():
    for end in range(len(WHOLE) + 1):
        answer = Answered(status=200, headers={}, body=WHOLE[:end], cut=end < len(WHOLE))
        found = provider("oauth2").salvage(answer)
        has_access = end >= WHOLE.index(b'", "refresh') + 1
        has_refresh = end >= WHOLE.index(b'", "expires') + 1
        assert (found.access_token == Secret("a2")) == has_access, end
        assert (found.refresh_token == Secret('r"2')) == has_refresh, end
        assert found.access_token in (None, Secret("a2"))
        assert found.refresh_token in (None, Secret('r"2'))
        assert (read("oauth2", answer).verdict is RENEWED) == has_access


SALVAGED = {
    "twice, the last counts": b'{"refresh_token":"r1","access_token":"a","refresh_token":"r2"}',
    "a trailing comma": b'{"refresh_token":"r2","access_token":"a",}',
    "single garbage behind": b'{"refresh_token":"r2","access_token":"a"} oops',
    "a byte order mark": b'\xef\xbb\xbf{"refresh_token":"r2","access_token":"a"}',
    "under a refusal": b'{"ok":false,"refresh_token":"r2","access_token":"a"}',
    "a form": b"access_token=a&refresh_token=r2",
    "bytes that are no text": b'{"x":"\xff","refresh_token":"r2","access_token":"a"}',
}


@pytest.mark.parametrize("body", SALVAGED.values(), ids=SALVAGED)
def test_a_refresh_token_is_found_in_what_no_parser_takes(body):
    found = provider("oauth2").salvage(Answered(status=200, headers={}, body=body))
    assert found.refresh_token == Secret("r2")
    assert found.access_token == Secret("a")


def test_half_a_surrogate_pair_is_no_token():
    answer = an_answer(body=b'{"refresh_token":"\\ud800","access_token":"\\ud800"}')
    assert provider("oauth2").salvage(answer).refresh_token is None
    assert read("oauth2", answer).verdict is TRANSIENT


NAMES = st.sampled_from(list(CATALOGUE.names()))
STATUSES = st.sampled_from([200, 201, 204, 301, 307, 400, 401, 403, 404, 429, 500, 503])
_KEYS = """access_token refresh_token expires_in error error_codes errors ok scope token_type code
type status response expires_at x"""
KEYS = _KEYS.split()
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)  # a busy machine is no failure
@given(name=NAMES, status=STATUSES, body=st.binary(max_size=300), cut=st.booleans())
def test_no_bytes_whatever_raise(name, status, body, cut):
    answer = Answered(status=status, headers={"retry-after": "x"}, body=body, cut=cut)
    provider(name).salvage(answer)
    assert read(name, answer).verdict in Verdict


@settings(deadline=None)
@given(name=NAMES, status=STATUSES, content=JSON_VALUES, header=st.text(max_size=40))
def test_no_json_whatever_raises(name, status, content, header):
    body = msgspec.json.encode(content)
    answer = Answered(status=status, headers={"retry-after": header}, body=body)
    found = provider(name).salvage(answer)
    reading = read(name, answer)
    assert provider(name).read_revocation(answer) is not None
    if reading.verdict is RENEWED:
        assert reading.tokens.access_token == found.access_token
        assert reading.tokens.refresh_token == found.refresh_token


def test_depth_without_end_is_survived():
    body = b'{"a":' * 10_000 + b"1" + b"}" * 10_000
    assert read("oauth2", an_answer(body=body)).verdict is TRANSIENT


IMPORTED = {
    "google, issue known": (
        "google-oauth2",
        3599,
        NOW,
        True,
        ("at", NOW + timedelta(seconds=3599)),
    ),
    "google, issue unknown": ("google-oauth2", 3599, None, True, ("at", NOW)),
    "nothing told, lifetime declared": ("google-oauth2", None, NOW, True, ("at", NOW + HOUR)),
    "nothing told, issue unknown": ("google-oauth2", None, None, True, ("at", NOW)),
    "text": ("google-oauth2", "3600", NOW, True, ("at", NOW + HOUR)),
    "iso instant": (
        "google-apps",
        "2026-11-23T15:20:00.000Z",
        None,
        True,
        ("at", datetime(2026, 11, 23, 15, 20, tzinfo=UTC)),
    ),
    "epoch": ("oauth2", int(EPOCH), None, False, ("at", NOW + HOUR)),
    "epoch in milliseconds": ("evernote", int(EPOCH * 1000), None, False, ("at", NOW + HOUR)),
    "never": ("github", None, NOW, False, ("never", None)),
    "zero means never": ("mailchimp", 0, NOW, False, ("never", None)),
    "unknown, nothing to renew with": ("oauth2", None, NOW, False, ("untold", None)),
    "unknown, issue unknown": ("oauth2", None, None, True, ("at", NOW)),
    "nonsense": ("oauth2", {"a": 1}, NOW, False, ("untold", None)),
}


@pytest.mark.parametrize(
    ("name", "expires_in", "issued_at", "refreshable", "expected"), IMPORTED.values(), ids=IMPORTED
)
def test_auth0s_copy_is_dated_with_care(name, expires_in, issued_at, refreshable, expected):
    found = provider(name).read_imported(
        access_token=Secret("a"),
        refresh_token=Secret("r") if refreshable else None,
        expires_in=expires_in,
        issued_at=issued_at,
        now=NOW,
    )
    assert (found.kind, found.expires_at) == expected


@pytest.mark.parametrize(
    ("strategy", "told"), [("google-oauth2", "104"), ("apple", "104"), ("google-apps", None)]
)
def test_whose_tokens_came_is_read_where_auth0_names_the_account_alike(catalogue, strategy, told):
    provider = catalogue.resolve(a_connection(strategy), has_refresh_token=True)
    id_token = jwt.encode({"sub": "104"}, "k" * 32)
    answer = an_answer({"access_token": "a", "expires_in": 3600, "id_token": id_token})
    assert provider.read(answer, asked_at=NOW).account == told


@pytest.mark.parametrize("id_token", ["", "x", "a.b.c", 7, None, "e30.e30.e30"])
def test_an_id_token_that_says_nothing_does_no_harm(catalogue, id_token):
    provider = catalogue.resolve(a_connection("google-oauth2"), has_refresh_token=True)
    answer = an_answer({"access_token": "a", "expires_in": 3600, "id_token": id_token})
    reading = provider.read(answer, asked_at=NOW)
    assert (reading.verdict, reading.account) == (Verdict.RENEWED, None)
