"""What is settled before routing: how a path splits, and that nothing of ours is cached.

Servers decode the path before an application sees it, and then `%2F` inside a user id reads like
the end of the id. So the path is split as it came over the wire, and each part decoded once.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.api.problems import ProblemError

PREFIX = "/v1/"
LONGEST_PART = 2048  # bytes, decoded
_SECRETS = frozenset({"access_token", "token", "api_key", "apikey", "key", "authorization"})
_UNPRINTABLE = frozenset(range(0x20)) | {0x7F}


class Segment(Convertor[str]):
    """One part of the path, decoded once; may hold `/`, `|`, `@` and spaces."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote_to_bytes(value).decode()

    def to_string(self, value: str) -> str:
        raise NotImplementedError("nobody builds our paths from here")


register_url_convertor("segment", Segment())


class Guard:
    """Splits the path as written, refuses what no honest caller sends, forbids caching."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path") or b"" if scope["type"] == "http" else b""
        if not raw.startswith(PREFIX.encode()) and not scope.get("path", "").startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        try:
            _check_path(raw)
            _check_query(scope["query_string"])
        except ProblemError as problem:
            await problem.response()(scope, receive, send)
            return

        async def send_uncached(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(n, v) for n, v in message["headers"] if n.lower() != b"cache-control"]
                message["headers"] = [*kept, (b"cache-control", b"no-store")]
            await send(message)

        await self._app({**scope, "path": raw.decode("ascii")}, receive, send_uncached)


def _check_path(raw: bytes) -> None:
    if not raw.isascii() or not raw.startswith(PREFIX.encode()):
        raise _bad_path("is not plain ASCII; percent-encode it")
    for part in raw.split(b"/")[1:]:
        decoded = unquote_to_bytes(part)
        if decoded in (b"", b".", b".."):
            raise _bad_path("has an empty or dotted part")
        if len(decoded) > LONGEST_PART or not _UNPRINTABLE.isdisjoint(decoded):
            raise _bad_path("has a part that is too long or holds control characters")
        try:
            decoded.decode()
        except UnicodeDecodeError:
            raise _bad_path("has a part that is not UTF-8") from None


def _check_query(query: bytes) -> None:
    if len(query) > LONGEST_PART * 2:
        raise ProblemError(414, "query_too_long", "The query is too long", "Ask for one grant.")
    names = [name.lower() for name, _ in parse_qsl(query.decode("latin-1"), True)]
    if not _SECRETS.isdisjoint(names):
        raise ProblemError(
            400,
            "key_in_query",
            "A secret in the query",
            "Queries end up in logs. Send `Authorization: Bearer …` and replace the key that was "
            "sent here.",
        )
    if len(set(names)) != len(names):
        raise ProblemError(400, "bad_parameter", "A parameter is given twice", "Give it once.")


def _bad_path(why: str) -> ProblemError:
    return ProblemError(400, "bad_path", f"The path {why}", "Percent-encode each id by itself.")
