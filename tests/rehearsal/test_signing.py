"""The stage reckons OAuth 1.0a signatures as the RFC's own example does."""

from __future__ import annotations

from worker.rehearsal.signing import parameters, signature

# https://www.rfc-editor.org/rfc/rfc5849#section-1.2, the request for the photo
HEADER = (
    'OAuth realm="Photos", oauth_consumer_key="dpf43f3p2l4k3l03", '
    'oauth_token="nnch734d00sl2jdk", oauth_signature_method="HMAC-SHA1", '
    'oauth_timestamp="137131202", oauth_nonce="chapoH", '
    'oauth_signature="MdpQcU8iPSUjWoN%2FUDMsK2sui9I%3D"'
)
URL = "http://photos.example.net/photos?file=vacation.jpg&size=original"


def test_the_signature_of_the_rfcs_example() -> None:
    told = parameters(HEADER)
    assert told["oauth_token"] == "nnch734d00sl2jdk"
    secrets = {"client_secret": "kd94hf93k423kf44", "token_secret": "pfkkdhi9sl3r4s00"}
    assert signature("GET", URL, told, **secrets) == told["oauth_signature"]
    assert signature("POST", URL, told, **secrets) != told["oauth_signature"]
    assert signature("GET", URL + "&x=1", told, **secrets) != told["oauth_signature"]


def test_another_scheme_is_no_signature() -> None:
    assert parameters('Bearer oauth_token="x"') == {}
    assert parameters("") == {}
