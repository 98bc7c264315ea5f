"""The same scenarios over every entry of the catalogue, by its own data: a new entry is tested.

The catalogue as the operator changed it may be run too: what these scenarios ask follows from
the entry, not from this file.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.providers.conftest import NOW, a_connection, an_answer
from worker.domain.errors import ConfigurationError
from worker.domain.exchange import Answered, ConnectionConfig, RevocationVerdict, Verdict
from worker.domain.grant import ExpiryKind
from worker.domain.secret import Secret
from worker.domain.token_pair import joined
from worker.providers import load_catalogue
from worker.providers.vocabulary import CodeAt, Entry, duration

CATALOGUE = load_catalogue({}, allow_loopback=False)
LIVING = [name for name in CATALOGUE.names() if CATALOGUE[name].grant != "none"]
ENDING = [name for name in CATALOGUE.names() if CATALOGUE[name].revoke.endpoint]
AT, RT = Secret("the-access-token"), Secret("the-refresh-token")
APPLE_KEY = ec.generate_private_key(ec.SECP256R1())
CODE_LISTS = {
    "permanent": Verdict.GRANT_DEAD,
    "heals": Verdict.GRANT_DEAD,
    "config": Verdict.CONFIG_WRONG,
    "config_if_repeated": Verdict.CONFIG_WRONG,
    "transient": Verdict.TRANSIENT,
    "too_often": Verdict.TRANSIENT,
}


def connection_for(name: str) -> ConnectionConfig:
    """One on which the entry works, with every option that a placeholder may ask for."""
    entry = CATALOGUE[name]
    host = next(iter(entry.match_token_host), "id.acme.example").replace("*", "acme")
    options = {
        "tokenURL": f"https://{host}/oauth2/token",
        "tenantId": "tenant",
        "shop": "acme",
        "realm": "acme",
        "sharepoint_host": "acme.sharepoint.com",
        "baseUrl": "https://start.exactonline.nl",
        "community_base_url": "https://acme.my.site.com/portal",
        "team_id": "TEAM",
        "kid": "KID",
        "app_secret": pem(APPLE_KEY),
        "revocation_endpoint": f"https://{host}/oauth2/revoke",
    }
    secret = None if entry.client_auth == "apple_jwt" else "our-secret"
    overrides = {"dead_since": False} if entry.dead_since else {}
    return a_connection(name, options, client_secret=secret, overrides=overrides)


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def provider(name: str):
    return CATALOGUE.entry(name, connection_for(name))


def placed(path: str, value: object, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """`content` with `value` where `path` says."""
    content = {} if content is None else content
    *before, last = path.split(".")
    inner: Any = content
    for step in before:
        name, _, listed = step.partition("[")
        inner = inner.setdefault(name, [{}])[0] if listed else inner.setdefault(name, {})
    name, _, listed = last.partition("[")
    inner[name] = [value] if listed else value
    return content


def answer_of(entry: Entry, **told: object) -> dict[str, Any]:
    """What the entry's provider would answer: its own places, its own forms."""
    content: dict[str, Any] = {"ok": True} if entry.errors.ok_at else {}
    for key, value in told.items():
        placed(getattr(entry.response_map, key)[0], value, content)
    return content


def refusal(entry: Entry, code: str) -> Answered:
    """The code, where the entry's provider puts it."""
    if code.startswith("http_"):
        return an_answer({}, status=int(code.removeprefix("http_")))
    places = entry.errors.codes_at or [CodeAt(path="error")]
    place = next(
        (p for p in reversed(places) if p.prefix and code.startswith(p.prefix)),
        next((p for p in places if not p.prefix), places[0]),
    )
    content = placed(place.path, code.removeprefix(place.prefix))
    if entry.errors.ok_at:
        return an_answer(placed(entry.errors.ok_at, False, content))
    return an_answer(content, status=400)


def read(name: str, answer: Answered):
    return provider(name).read(answer, asked_at=NOW)


@pytest.mark.parametrize("name", LIVING)
def test_it_can_be_renewed_and_says_so(name):
    assert provider(name).not_renewable is None
    assert provider(name).spends in {"rt", "at"}


@pytest.mark.parametrize("name", [n for n in CATALOGUE.names() if n not in LIVING])
def test_what_cannot_be_renewed_says_why(name):
    found = provider(name)
    assert found.spends == ""
    assert len(found.not_renewable or "") > 20


@pytest.mark.parametrize("name", LIVING)
def test_the_request_carries_the_subject_once_and_the_client_in_one_place(name):
    entry = CATALOGUE[name]
    connection = connection_for(name)
    request = provider(name).request(connection, subject=RT, scope="a b", now=NOW)
    assert request.method == entry.method
    url = urlsplit(request.url)
    assert url.scheme == "https"
    if entry.params_in == "query":
        sent = dict(parse_qsl(url.query))
    elif entry.body == "json":
        sent = msgspec.json.decode(request.body)
    else:
        sent = dict(parse_qsl(request.body.decode()))
    assert sent[entry.grant_param] == entry.grant
    assert [key for key, value in sent.items() if value == RT.text()] == [entry.subject_param]
    assert not ("authorization" in request.headers and entry.client_secret_param in sent)
    if entry.client_auth == "apple_jwt":
        audience = "https://appleid.apple.com"
        key = APPLE_KEY.public_key()
        options = {"verify_exp": False, "verify_iat": False}
        jwt.decode(sent["client_secret"], key, ["ES256"], audience=audience, options=options)
    if entry.client_auth != "anonymous" and "authorization" not in request.headers:
        assert sent[entry.client_id_param].startswith("our-client")
    assert RT.text() not in repr(request)


@pytest.mark.parametrize("name", LIVING)
def test_renewed_and_rotated(name):
    content = answer_of(CATALOGUE[name], access_token="a2", refresh_token="r2", scope="x")
    answer = an_answer(content | {"expires_in": "60"})
    found, reading = provider(name).salvage(answer), read(name, answer)
    assert (found.access_token, found.refresh_token) == (Secret("a2"), Secret("r2"))
    assert reading.verdict is Verdict.RENEWED
    assert reading.tokens.refresh_token == Secret("r2")
    assert reading.tokens.expires_at == NOW + timedelta(minutes=1)


@pytest.mark.parametrize("name", LIVING)
def test_renewed_without_a_refresh_token_keeps_the_old_one(name):
    reading = read(name, an_answer(answer_of(CATALOGUE[name], access_token="a2")))
    assert reading.verdict is Verdict.RENEWED
    assert reading.tokens.refresh_token is None


@pytest.mark.parametrize("name", LIVING)
def test_an_untold_expiry_is_the_declared_one_or_untold(name):
    tokens = read(name, an_answer(answer_of(CATALOGUE[name], access_token="a2"))).tokens
    declared = duration(CATALOGUE[name].lifetimes.access)
    if declared:
        assert tokens.expires_at == NOW + declared
    else:
        assert tokens.expiry is ExpiryKind.UNTOLD


VALUES: dict[str, Callable[[], object]] = {
    "seconds": lambda: 7200,
    "epoch": lambda: int(NOW.timestamp()) + 7200,
    "epoch_ms": lambda: (int(NOW.timestamp()) + 7200) * 1000,
    "iso": lambda: (NOW + timedelta(hours=2)).isoformat(),
    "jwt_exp": lambda: jwt.encode({"exp": NOW + timedelta(hours=2)}, "k" * 32, "HS256"),
}


@pytest.mark.parametrize("name", LIVING)
def test_each_form_of_expiry_is_read(name):
    for form in CATALOGUE[name].expiry:
        if form.form != "declared":
            content = answer_of(CATALOGUE[name], access_token="a2")
            answer = an_answer(placed(form.path, VALUES[form.form](), content))
            assert read(name, answer).tokens.expires_at == NOW + timedelta(hours=2), form


@pytest.mark.parametrize("name", LIVING)
def test_each_code_of_the_entry_gets_its_verdict(name):
    errors = CATALOGUE[name].errors
    for listed, verdict in CODE_LISTS.items():
        for code in getattr(errors, listed):
            reading = read(name, refusal(CATALOGUE[name], code))
            assert reading.verdict is verdict, code
            assert reading.heals == (listed == "heals"), code
            assert reading.if_repeated == (listed == "config_if_repeated"), code
            assert (reading.retry_after is not None) == (listed == "too_often"), code
            assert code in reading.code or code.startswith("http_"), code


@pytest.mark.parametrize("name", CATALOGUE.names())
def test_what_is_told_of_a_code_is_of_one_it_judges(name):
    """And a code has one verdict: what stands in two lists says nothing."""
    errors = CATALOGUE[name].errors
    listed = [code for lists in CODE_LISTS for code in getattr(errors, lists)]
    assert set(errors.told) <= set(listed)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", LIVING)
def test_the_words_of_the_rfc_hold_where_the_entry_does_not_move_them(name):
    errors = CATALOGUE[name].errors
    moved = {code for listed in CODE_LISTS for code in getattr(errors, listed)}
    reads_error = not errors.codes_at or any(place.path == "error" for place in errors.codes_at)
    for code, verdict in {
        "invalid_grant": Verdict.GRANT_DEAD,
        "invalid_client": Verdict.CONFIG_WRONG,
        "temporarily_unavailable": Verdict.TRANSIENT,
    }.items():
        if reads_error and code not in moved:
            status = 200 if errors.ok_at else 400
            content = {"ok": False, "error": code} if errors.ok_at else {"error": code}
            assert read(name, an_answer(content, status=status)).verdict is verdict, code


@pytest.mark.parametrize("name", LIVING)
@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_provider_condemns_nobody(name, status):
    entry = CATALOGUE[name]
    for code in [*entry.errors.permanent, *entry.errors.config, ""]:
        content = refusal(entry, code).body if code else b""
        answer = Answered(status=status, headers={"retry-after": "7"}, body=content)
        reading = read(name, answer)
        assert reading.verdict is Verdict.TRANSIENT, code
        assert reading.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize("name", LIVING)
def test_a_page_condemns_nobody_but_where_a_bare_401_is_the_word(name):
    for status in (200, 302, 400, 403, 404):
        answer = an_answer(body=b"<html>", status=status, content_type="text/html")
        assert read(name, answer).verdict is Verdict.TRANSIENT, status


@pytest.mark.parametrize("name", ENDING)
def test_it_is_asked_to_revoke_as_it_says(name):
    entry, connection = CATALOGUE[name], connection_for(name)
    held = joined(AT, Secret("its-secret")) if entry.revoke.auth == "oauth1" else AT
    request = provider(name).revocation(connection, access_token=held, refresh_token=RT, now=NOW)
    assert request is not None
    assert request.method == entry.revoke.method
    token = AT if entry.revoke.token == "access_token" else RT
    everything = request.url + str(dict(request.headers)) + request.body.decode()
    assert token.text() in everything
    assert (AT if token == RT else RT).text() not in everything
    assert "its-secret" not in everything
    if entry.revoke.auth in {"anonymous", "bearer", "client_id"}:
        assert "our-secret" not in everything
    assert not ("authorization" in request.headers and "client_secret" in everything)
    assert token.text() not in repr(request)
    assert provider(name).revocation_effect == entry.revoke.effect


@pytest.mark.parametrize("name", [name for name in CATALOGUE.names() if name not in ENDING])
def test_where_nothing_can_be_asked_nothing_is_claimed_and_a_person_is_told_where(name):
    """ "Deleted here" is never "revoked there"."""
    offered = provider(name)
    held = {"access_token": AT, "refresh_token": RT}
    assert offered.revocation(connection_for(name), **held, now=NOW) is None
    assert offered.revocation_effect == ""
    assert len(offered.revocation_by_hand) > 10


@pytest.mark.parametrize("name", ENDING)
def test_it_is_not_asked_with_the_wrong_token(name):
    wanted = CATALOGUE[name].revoke.token
    held = {"access_token": AT, "refresh_token": RT}
    lacking = {key: None if key == wanted else token for key, token in held.items()}
    if wanted == "refresh_or_access":
        lacking = {"access_token": None, "refresh_token": None}
    request = provider(name).revocation(connection_for(name), **lacking, now=NOW)
    assert request is None


@pytest.mark.parametrize("name", CATALOGUE.names())
def test_what_it_says_to_a_revocation_is_told_apart(name):
    def verdict(answer: Answered) -> RevocationVerdict:
        return provider(name).read_revocation(answer)

    ok = {"ok": True} if CATALOGUE[name].errors.ok_at else {}
    assert verdict(an_answer(ok)) is RevocationVerdict.REVOKED
    assert verdict(an_answer({}, status=204)) is RevocationVerdict.REVOKED
    assert verdict(an_answer({}, status=503)) is RevocationVerdict.TRANSIENT
    assert verdict(an_answer({}, status=429)) is RevocationVerdict.TRANSIENT
    assert verdict(an_answer({"error": "gremlins"}, status=403)) is RevocationVerdict.REFUSED
    if CATALOGUE[name].errors.ok_at:
        no = an_answer({"ok": False, "error": "gremlins"})
        assert verdict(no) is RevocationVerdict.REFUSED


@pytest.mark.parametrize("name", CATALOGUE.names())
def test_an_empty_yes_is_a_yes_and_a_client_that_is_refused_is_asked_again(name):
    """RFC 7009 §2.2: the body means nothing, and Django says text/html of it. A wrong client secret
    is mended by an operator: keys must not be destroyed over it, nor the consent be left."""
    if not CATALOGUE[name].errors.ok_at:
        empty = an_answer(body=b"", content_type="text/html; charset=utf-8")
        assert provider(name).read_revocation(empty) is RevocationVerdict.REVOKED
    wrong = refusal(CATALOGUE[name], "invalid_client")
    codes = {place.path for place in CATALOGUE[name].errors.codes_at} or {"error"}
    if "error" in codes and not CATALOGUE[name].errors.ok_at:
        assert provider(name).read_revocation(wrong) is RevocationVerdict.TRANSIENT


@pytest.mark.parametrize("name", CATALOGUE.names())
def test_a_success_that_is_none_is_not_called_revoked(name):
    """A proxy's page with status 200, an error beside it: "deleted here" is not "revoked there"."""
    page = an_answer(body=b"<html>Back soon</html>", content_type="text/html")
    assert provider(name).read_revocation(page) is RevocationVerdict.TRANSIENT
    for no in ({"error": "gremlins"}, {"error_code": 110}, {"success": False}, {"result": 0}):
        answer = an_answer({"ok": True, **no} if CATALOGUE[name].errors.ok_at else no)
        assert provider(name).read_revocation(answer) is RevocationVerdict.REFUSED, no


# No public source tells where the person ends it; `oauth2` and its like stand for any provider.
_UNKNOWN = """oauth2 oidc custom oauth1 gone weibo baidu daccount untappd bitly exact shop dwolla
paypal paypal-sandbox podio snapchat freshbooks"""
NOT_ESTABLISHED = set(_UNKNOWN.split())


@pytest.mark.parametrize("name", CATALOGUE.names())
def test_where_a_person_ends_it_is_said_or_said_to_be_unknown(name):
    told = provider(name).revocation_by_hand
    assert told.startswith("not established") == (name in NOT_ESTABLISHED), told


@pytest.mark.parametrize("name", CATALOGUE.names())
def test_how_its_api_is_called_is_said(name):
    call = CATALOGUE[name].call
    assert call.url or call.note
    if call.url:
        assert urlsplit(call.url).scheme == "https"


@pytest.mark.parametrize("name", LIVING)
def test_without_a_client_nothing_is_sent(name):
    if CATALOGUE[name].client_auth == "anonymous":
        return
    connection = a_connection(name, connection_for(name).options, client_id="", client_secret=None)
    with pytest.raises(ConfigurationError):
        CATALOGUE.entry(name, connection).request(connection, subject=RT, scope=None, now=NOW)
