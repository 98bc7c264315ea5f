"""django-oauth-toolkit as a server of its own: `python -m tests.counterparties.toolkit_server DB`.

Prints its port and serves until killed. Django's settings are global to a process, so it has one.
"""

from __future__ import annotations

import json
import secrets
import sys
from datetime import timedelta
from socketserver import ThreadingMixIn
from typing import Any
from uuid import uuid4
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.conf import settings


def configure(database: str) -> None:
    settings.configure(
        SECRET_KEY=secrets.token_hex(16),
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        MIDDLEWARE=[],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # quick, not safe
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "oauth2_provider",
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": database,
                "OPTIONS": {
                    "timeout": 20,
                    "transaction_mode": "IMMEDIATE",
                    "init_command": "PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY",
                },
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        OAUTH2_PROVIDER={},
    )
    django.setup()


def mint(wanted: dict[str, Any]) -> dict[str, str]:
    """What an authorization-code login leaves behind, made directly."""
    from django.contrib.auth.models import User
    from django.utils import timezone
    from oauth2_provider.models import AccessToken, Application, RefreshToken

    user, _ = User.objects.get_or_create(username=wanted.get("subject", "rosa"))
    secret = wanted.get("client_secret") or secrets.token_urlsafe(24)
    application = Application.objects.filter(client_id=wanted.get("client_id")).first()
    if application is None:
        application = Application.objects.create(
            user=user,
            client_type="confidential",
            authorization_grant_type="authorization-code",
            client_secret=secret,
            redirect_uris="https://rehearsal.auth0.test/login/callback",
        )
    access = AccessToken.objects.create(
        user=user,
        application=application,
        token=secrets.token_urlsafe(24),
        scope="read",
        expires=timezone.now() + timedelta(seconds=wanted.get("lifetime", 60)),
    )
    refresh = RefreshToken.objects.create(
        user=user,
        application=application,
        token=secrets.token_urlsafe(24),
        access_token=access,
        token_family=uuid4(),
    )
    return {
        "client_id": application.client_id,
        "client_secret": secret,
        "access_token": access.token,
        "refresh_token": refresh.token,
    }


def urls() -> list[Any]:
    from django.http import HttpRequest, HttpResponse, JsonResponse
    from django.urls import path
    from oauth2_provider.models import RefreshToken
    from oauth2_provider.settings import oauth2_settings
    from oauth2_provider.views import RevokeTokenView, TokenView
    from oauth2_provider.views.generic import ProtectedResourceView

    class Me(ProtectedResourceView):
        def get(self, request: HttpRequest, *args: Any) -> HttpResponse:
            return JsonResponse({"id": request.resource_owner.username})

    def reconfigure(request: HttpRequest) -> HttpResponse:
        settings.OAUTH2_PROVIDER = {"SCOPES": {"read": "Read"}, **json.loads(request.body)}
        oauth2_settings.reload()
        return HttpResponse()

    def families(request: HttpRequest) -> HttpResponse:
        """Of every login: how many refresh tokens came of it, the newest, and whether it lives."""
        found: dict[Any, dict[str, Any]] = {}
        for token in RefreshToken.objects.order_by("id"):
            family = found.setdefault(token.token_family, {"tokens": 0, "first": token.token})
            family["tokens"] += 1
            family.update(newest=token.token, revoked=token.revoked is not None)
        return JsonResponse(list(found.values()), safe=False)

    def minted(request: HttpRequest) -> HttpResponse:
        return JsonResponse(mint(json.loads(request.body)))

    return [
        path("token", TokenView.as_view()),
        path("revoke", RevokeTokenView.as_view()),
        path("api/me", Me.as_view()),
        path("configure", reconfigure),
        path("mint", minted),
        path("families", families),
    ]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    configure(sys.argv[1])
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    global urlpatterns
    urlpatterns = urls()
    sys.modules[settings.ROOT_URLCONF] = sys.modules[__name__]
    with make_server("127.0.0.1", 0, WSGIHandler(), Server, Quiet) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


urlpatterns: list[Any] = []

if __name__ == "__main__":
    main()
