"""A rehearsed provider over HTTP: token endpoint, API, revocation, introspection.

Everything under `/<profile name>/…`; what each does is written in its profile.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .families import Issued, RefusedError
from .faults import Answer, Faults, play
from .issuer import Issuer
from .profiles import Profile
from .signing import parameters, signature

_KINDS = {"any": "ra", "refresh_token": "r", "access_token": "a"}
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 section 2.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """An application registered at the provider."""

    id: str
    secret: str = field(repr=False)
    public_key: str | None = None  # PEM; for private_key_jwt and secret_jwt


@dataclass(slots=True)
class Provider:
    """One provider: its state, its clients, its doors."""

    issuer: Issuer
    faults: Faults
    clients: dict[str, Client] = field(default_factory=dict)

    @property
    def profile(self) -> Profile:
        return self.issuer.profile

    def register_key(self, client_id: str, public_key: str) -> None:
        """The client signs from now on (private_key_jwt, secret_jwt): its public key, as PEM."""
        self.clients[client_id] = replace(self.clients[client_id], public_key=public_key)

    async def handle(self, request: Request, rest: str) -> Response:
        """Serve one request below the provider's path."""
        profile = self.profile
        if request.method == profile.method and rest in self._token_paths:
            return await self._token(request, first=rest != profile.refresh_path)
        if rest == "api/me":
            return await self._api(request)
        if rest == "introspect":
            return self._introspect(await _params(request, "form"))
        if rest == ".well-known/openid-configuration":
            return JSONResponse(_discovery(str(request.url).removesuffix(f"/{rest}")))
        if (place := _revocation(profile, request.method, rest)) is not None:
            return await self._revoke(request, place)
        return JSONResponse({"error": "not_found"}, 404)

    # ------------------------------------------------------------ token endpoint

    @property
    def _token_paths(self) -> set[str]:
        first = self.profile.first
        return {self.profile.refresh_path, *([first["path"]] if first else [])}

    async def _token(self, request: Request, *, first: bool) -> Response:
        params = await _params(request, self.profile.params_in)
        token = params.get(self.profile.subject_param, "")
        fault = self.faults.pick(self.profile.name, "token")
        with self.issuer.exchanging(token):
            return await play(
                fault, request, lambda: self._exchange(request, params, first=first), self.refuse
            )

    def _exchange(self, request: Request, params: Mapping[str, str], *, first: bool) -> Answer:
        profile = self.profile
        try:
            client_id = self._first_client(params) if first else self._client(request, params)
            self._check(request, params, first=first)
            issued = self.issuer.refresh(params[profile.subject_param], client_id, first=first)
        except RefusedError as error:
            if error.situation == "wrong_client":
                self.issuer.refused_client(params.get(profile.subject_param, ""))
            return Answer(self.refuse(error.situation))
        as_form = profile.answer_as == "form" or (
            profile.answer_as == "form_unless_json"
            and "application/json" not in request.headers.get("accept", "")
        )
        body = filled(profile.answer, _values(issued))
        return Answer(_form(body) if as_form else _json(body), lambda: self.issuer.lost(issued))

    def _first_client(self, params: Mapping[str, str]) -> str:
        return self._by_secret_alone(params.get("client_secret", ""), "")

    def _check(self, request: Request, params: Mapping[str, str], *, first: bool) -> None:
        profile = self.profile
        wanted = profile.first["grant_name"] if first else profile.grant_name
        named = params.get(profile.grant_param) == wanted
        missing = [name for name in (*profile.needs, profile.subject_param) if not params.get(name)]
        if not named or missing or any(name in params for name in profile.forbids):
            raise RefusedError("bad_request")
        if profile.grant == "none":
            raise RefusedError("bad_request")
        place = request.headers.get("content-type", "").partition(";")[0]
        if profile.params_in == "json" and place != "application/json":
            raise RefusedError("bad_request")
        if profile.params_in == "form" and place != "application/x-www-form-urlencoded":
            raise RefusedError("bad_request")

    def _client(self, request: Request, params: Mapping[str, str]) -> str:
        """The id of the client that proved itself. Raises RefusedError("wrong_client")."""
        accepted = self.profile.client_auth
        basic = _basic(request)
        if basic and "client_secret" in params:
            raise RefusedError("wrong_client")  # one way at a time (RFC 6749 section 2.3)
        if basic and "basic" in accepted:
            return self._by_secret(*basic)
        if basic and "secret_as_user" in accepted:
            return self._by_secret_alone(*basic)
        if "client_assertion" in params and "private_key_jwt" in accepted:
            return self._by_assertion(params["client_assertion"], params)
        client_id = params.get(self.profile.client_id_param, "")
        if self.profile.client_id_at_realm:
            client_id, _, _ = client_id.partition("@")
        secret = params.get("client_secret", "")
        if "secret_jwt" in accepted:
            return self._by_jwt(client_id, secret)
        if secret and "post" in accepted:
            return self._by_secret(client_id, secret)
        if "none" in accepted:
            return client_id or next(iter(self.clients))
        raise RefusedError("wrong_client")

    def _by_secret(self, client_id: str, secret: str) -> str:
        client = self.clients.get(client_id)
        if client is None or client.secret != secret:
            raise RefusedError("wrong_client")
        return client.id

    def _by_secret_alone(self, user: str, password: str) -> str:
        """The secret is the user name, the password is empty."""
        found = [one.id for one in self.clients.values() if one.secret == user]
        if password or not found:
            raise RefusedError("wrong_client")
        return found[0]

    def _by_assertion(self, assertion: str, params: Mapping[str, str]) -> str:
        if params.get("client_assertion_type") != ASSERTION:
            raise RefusedError("wrong_client")
        claims = _unverified(assertion)
        return self._by_jwt(str(claims.get("iss", "")), assertion)

    def _by_jwt(self, client_id: str, token: str) -> str:
        client = self.clients.get(client_id)
        if client is None or client.public_key is None:
            raise RefusedError("wrong_client")
        try:
            claims = jwt.decode(
                token,
                client.public_key,
                algorithms=["ES256", "RS256", "PS256"],
                options={
                    "require": ["exp", "sub"],
                    "verify_aud": False,
                    "verify_exp": False,  # by the stage's time, which may run ahead
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError:
            raise RefusedError("wrong_client") from None
        if claims["sub"] != client_id or claims["exp"] <= self.issuer.now():
            raise RefusedError("wrong_client")
        return client_id

    # ------------------------------------------------------------ the other doors

    async def _api(self, request: Request) -> Response:
        fault = self.faults.pick(self.profile.name, "api")
        return await play(fault, request, lambda: Answer(self._me(request)), self.refuse)

    def _me(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = request.query_params.get("access_token", "")
        grant = self.issuer.access(token)
        if grant is None:
            return self.refuse("unauthorized")
        return JSONResponse({"ok": True, "id": grant.subject, "provider": self.profile.name})

    async def _revoke(self, request: Request, in_path: Mapping[str, str]) -> Response:
        place = self.profile.revoke["token_in"]
        params = await _params(request, place if place in ("json", "query") else "form")
        params |= in_path
        fault = self.faults.pick(self.profile.name, "revoke")
        return await play(fault, request, lambda: self._give_back(request, params), self.refuse)

    def _give_back(self, request: Request, params: Mapping[str, str]) -> Answer:
        rule = self.profile.revoke
        token = params.get(rule["param"], "")
        try:
            if rule["client"] == "oauth1":
                token = self._by_signature(request)
            else:
                self._revoking_client(request, params)
        except RefusedError as error:
            return Answer(self.refuse(error.situation))
        if rule["token_in"] == "bearer":
            token = request.headers.get("authorization", "").partition(" ")[2]
        self.issuer.revoke(token, rule["effect"], kinds=_KINDS[rule["takes"]])
        if rule["body"]:
            return Answer(JSONResponse(rule["body"], rule["status"]))
        return Answer(Response(status_code=rule["status"]))

    def _revoking_client(self, request: Request, params: Mapping[str, str]) -> None:
        """Raises RefusedError("wrong_client") for less proof than a revocation demands."""
        demanded = self.profile.revoke["client"]
        if demanded is True:
            self._client(request, params)
        elif demanded == "id" and params.get(self.profile.client_id_param) not in self.clients:
            raise RefusedError("wrong_client")

    def _by_signature(self, request: Request) -> str:
        """The token that a client has signed with. Raises RefusedError."""
        told = parameters(request.headers.get("authorization", ""))
        token, claimed = told.get("oauth_token", ""), told.get("oauth_signature", "")
        client = self.clients.get(told.get("oauth_consumer_key", ""))
        if client is None:
            raise RefusedError("wrong_client")
        found = signature(
            request.method,
            str(request.url),
            told,
            client_secret=client.secret,
            token_secret=self.issuer.secret_of(token) or "",
        )
        if found != claimed:
            raise RefusedError("wrong_client")
        if self.issuer.expires_at(token) is None:
            raise RefusedError("dead")
        return token

    def _introspect(self, params: Mapping[str, str]) -> Response:
        """RFC 7662."""
        ends = self.issuer.expires_at(params.get("token", ""))
        return JSONResponse({"active": True, "exp": int(ends)} if ends else {"active": False})

    def refuse(self, situation: str) -> Response:
        """The profile's own answer for a situation."""
        error = self.profile.errors[situation]
        return JSONResponse(error["body"], error["status"])


def filled(template: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The template with each "{name}" replaced; a key whose value is missing is left out."""
    result: dict[str, Any] = {}
    for key, value in template.items():
        if isinstance(value, Mapping):
            result[key] = filled(value, values)
        elif isinstance(value, str) and value.startswith("{") and value.endswith("}"):
            if (found := values[value[1:-1]]) is not None:
                result[key] = found
        else:
            result[key] = value
    return result


def _values(issued: Issued) -> dict[str, Any]:
    seconds, now = int(issued.lifetime), int(issued.issued_at)
    left = issued.refresh_lifetime
    return {
        "access_token": issued.access_token,
        "refresh_token": issued.refresh_token,
        "subject": issued.grant.subject,
        "scope": issued.scope,
        "scope_list": issued.scope.split(),
        "refresh_expires_in": None if left is None else int(left),
        "expires_in": seconds,
        "expires_in_string": str(seconds),
        "expires_at": now + seconds,
        "expires_at_string": str(now + seconds),
        "issued_at": now,
        "issued_at_ms_string": str(int(issued.issued_at * 1000)),
    }


async def _params(request: Request, place: str) -> dict[str, str]:
    """Parameters of one place, "query", "form" or "json"; what stands elsewhere is not seen."""
    if place == "query":
        return dict(parse_qsl(request.url.query, keep_blank_values=True))
    body = await request.body()
    is_json = request.headers.get("content-type", "").startswith("application/json")
    if is_json != (place == "json"):
        return {}
    if place == "form":
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _basic(request: Request) -> tuple[str, str] | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return None
    return unquote_plus(name), unquote_plus(secret)  # RFC 6749 section 2.3.1: form-encoded first


def _unverified(assertion: str) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.PyJWTError:
        return {}
    return claims


def _revocation(profile: Profile, method: str, rest: str) -> dict[str, str] | None:
    """What the path of a revocation holds, {client_id} or {token}; None: it is none."""
    path = profile.revoke["path"]
    if not path or method != profile.revoke["method"]:
        return None
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
    found = re.fullmatch(pattern, rest)
    return found.groupdict() if found else None


def _json(body: Mapping[str, Any]) -> Response:
    headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}  # RFC 6749 section 5.1
    return JSONResponse(dict(body), headers=headers)


def _form(body: Mapping[str, Any]) -> Response:
    return Response(urlencode(body), media_type="application/x-www-form-urlencoded")


def _discovery(base: str) -> dict[str, Any]:
    """RFC 8414 metadata."""
    return {
        "issuer": base,
        "token_endpoint": f"{base}/token",
        "revocation_endpoint": f"{base}/revoke",
        "introspection_endpoint": f"{base}/introspect",
        "userinfo_endpoint": f"{base}/api/me",
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
    }
