"""An Authlib authorization server on Flask, in a thread of the test's process.

Authlib leaves the keeping of tokens to its user; here a spent refresh token ends its family when
`reuse_revokes` is on, else it is just refused.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from authlib.integrations.flask_oauth2 import (
    AuthorizationServer,
    ResourceProtector,
    current_token,
)
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from flask import Flask, Response, jsonify, request
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

AUTH_METHODS = ["client_secret_basic", "client_secret_post", "private_key_jwt"]


@dataclass
class Client(ClientMixin):
    client_id: str
    client_secret: str
    auth_method: str | None  # None: basic or post
    public_key: str | None

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(self.client_secret, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        allowed = [self.auth_method] if self.auth_method else AUTH_METHODS[:2]
        return method in allowed

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "refresh_token"


@dataclass
class Token(TokenMixin):
    client_id: str
    user: str
    access_token: str
    refresh_token: str | None
    family: str
    expires_at: float
    scope: str = "read"
    revoked: bool = False
    refreshable: bool = True

    def check_client(self, client: Client) -> bool:
        return self.client_id == client.client_id

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return self.expires_at <= time.time()

    def is_revoked(self) -> bool:
        return self.revoked


@dataclass
class Store:
    clients: dict[str, Client] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)
    rotate: bool = True
    reuse_revokes: bool = False
    lifetime: int = 60
    jtis: set[str] = field(default_factory=set)

    def by_refresh_token(self, value: str) -> Token | None:
        return next((one for one in self.tokens if one.refresh_token == value), None)

    def by_access_token(self, value: str) -> Token | None:
        return next((one for one in self.tokens if one.access_token == value), None)

    def end_family(self, family: str) -> None:
        for token in self.tokens:
            if token.family == family:
                token.revoked, token.refreshable = True, False


def build(store: Store, audience: list[str]) -> Flask:
    """The application; `audience` is filled in once the address is known."""
    app = Flask(__name__)
    app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
    app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"refresh_token": 60}

    def save_token(token: dict[str, Any], asked: Any) -> None:
        spent = asked.refresh_token
        store.tokens.append(
            Token(
                client_id=asked.client.client_id,
                user=asked.user,
                access_token=token["access_token"],
                refresh_token=token.get("refresh_token"),
                family=spent.family,
                expires_at=time.time() + store.lifetime,
            )
        )

    class Refresh(grants.RefreshTokenGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

        @property
        def INCLUDE_NEW_REFRESH_TOKEN(self) -> bool:
            return store.rotate

        def authenticate_refresh_token(self, value: str) -> Token | None:
            token = store.by_refresh_token(value)
            if token and not token.refreshable and store.reuse_revokes:
                store.end_family(token.family)
            return token if token and token.refreshable else None

        def authenticate_user(self, token: Token) -> str:
            return token.user

        def revoke_old_credential(self, token: Token) -> None:
            if store.rotate:
                token.refreshable = False

    class Assertion(JWTBearerClientAssertion):
        CLIENT_AUTH_METHOD = "private_key_jwt"

        def get_audiences(self) -> list[str]:
            return audience

        def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
            fresh = jti not in store.jtis
            store.jtis.add(jti)
            return fresh

        def resolve_client_public_key(self, client: Client) -> RSAKey:
            return RSAKey.import_key(client.public_key or "")

    class Revocation(RevocationEndpoint):
        CLIENT_AUTH_METHODS = AUTH_METHODS

        def query_token(self, value: str, hint: str | None) -> Token | None:
            return store.by_refresh_token(value) or store.by_access_token(value)

        def revoke_token(self, token: Token, asked: Any) -> None:
            store.end_family(token.family)

    class Validator(BearerTokenValidator):
        def authenticate_token(self, value: str) -> Token | None:
            return store.by_access_token(value)

    server = AuthorizationServer(app, store.clients.get, save_token)
    server.register_grant(Refresh)
    server.register_client_auth_method("private_key_jwt", Assertion())
    server.register_endpoint(Revocation)
    protect = ResourceProtector()
    protect.register_token_validator(Validator())

    @app.post("/token")
    def token() -> Response:
        return server.create_token_response()

    @app.post("/revoke")
    def revoke() -> Response:
        return server.create_endpoint_response("revocation")

    @app.get("/api/me")
    @protect()
    def me() -> Response:
        return jsonify(id=current_token.user)

    @app.post("/configure")
    def configure() -> str:
        for name, value in request.get_json().items():
            setattr(store, name, value)
        app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"refresh_token": store.lifetime}
        server.load_config(app.config)
        return ""

    @app.post("/mint")
    def mint() -> Response:
        wanted = request.get_json()
        client = Client(
            client_id=secrets.token_urlsafe(12),
            client_secret=secrets.token_urlsafe(24),
            auth_method=wanted.get("auth_method"),
            public_key=wanted.get("public_key"),
        )
        store.clients[client.client_id] = client
        grant = Token(
            client_id=client.client_id,
            user=wanted.get("subject", "rosa"),
            access_token=secrets.token_urlsafe(24),
            refresh_token=secrets.token_urlsafe(24),
            family=secrets.token_hex(8),
            expires_at=time.time() + store.lifetime,
        )
        store.tokens.append(grant)
        return jsonify(
            client_id=client.client_id,
            client_secret=client.client_secret,
            access_token=grant.access_token,
            refresh_token=grant.refresh_token,
        )

    return app


@contextmanager
def serving() -> Iterator[str]:
    """The server's base URL."""
    audience: list[str] = []
    server = make_server("127.0.0.1", 0, build(Store(), audience), threaded=True)
    url = f"http://127.0.0.1:{server.server_port}"
    audience += [url, f"{url}/token"]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
