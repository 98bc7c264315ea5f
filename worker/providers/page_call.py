"""The part of a provider's page that shows how its API is called."""

from __future__ import annotations

from collections.abc import Iterator

from worker.providers.vocabulary import Call, Entry

_OPENING = """import os
import httpx
from worker.client import TokenClient

tokens = TokenClient(os.environ["EVERGRANT_URL"], os.environ["EVERGRANT_API_KEY"], tenant="acme")
user_id, connection = "{user_id}", "{connection}"
"""
_SIGNED = """
with httpx.Client(auth=tokens.auth(user_id, connection)) as api:
    print(api.{method}({arguments}).json())"""
_PLACED = """
token = tokens.get(user_id, connection)
answer = httpx.{method}({arguments})
if answer.status_code == 401:  # refused: the next one, which is handed out once there is a newer
    token = tokens.get(user_id, connection, stale=token.generation)
print(answer.json())"""
_SECRET = "token.access_token"


def calling(name: str, entry: Entry) -> str:
    """Markdown: a note, and a request that runs as it stands once a user has logged in."""
    said = [entry.call.note] if entry.call.note else []
    if entry.call.url:
        said.append(f"```python\n{example(name, entry)}\n```")
    if any(word.isupper() and len(word) > 2 for word in _host_words(entry.call.url)):
        said.append("Words in capitals are yours to fill in.")
    return "\n\n".join(said)


def example(name: str, entry: Entry) -> str:
    """Python that reads a user's token and makes the entry's harmless request with it."""
    call = entry.call
    strategy = next(iter(entry.strategies), "")
    user_id = f"{strategy}|104" if strategy else f"oauth2|{name}|104"
    body = _SIGNED if _is_signed(call) else _PLACED
    arguments = ", ".join(_arguments(call))
    if len(arguments) > _WIDE:
        arguments = "\n        " + ",\n        ".join(_arguments(call)) + ",\n    "
        arguments = arguments if _is_signed(call) else arguments.replace("\n    ", "\n")
    return _OPENING.format(user_id=user_id, connection=strategy or name) + body.format(
        method=call.method.lower(), arguments=arguments
    )


_WIDE = 70


def _is_signed(call: Call) -> bool:
    """Whether the client can place the token by itself: `Authorization: Bearer`."""
    return call.scheme == "Bearer" and not (call.header or call.param)


def _arguments(call: Call) -> Iterator[str]:
    yield _quoted(call.url)
    params, headers = _texts(call.query), _texts(call.headers)
    if call.param:
        params = [*params, f"{_quoted(call.param)}: {_SECRET}"]
    elif call.header:
        headers = [*headers, f"{_quoted(call.header)}: {_SECRET}"]
    elif not _is_signed(call):
        headers = [*headers, f'"Authorization": f"{call.scheme} {{{_SECRET}}}"']
    if params:
        yield ("data" if call.method == "POST" else "params") + "={" + ", ".join(params) + "}"
    if headers:
        yield "headers={" + ", ".join(headers) + "}"
    if call.json:
        yield "json={" + ", ".join(_texts(call.json)) + "}"


def _texts(pairs: dict[str, str]) -> list[str]:
    return [f"{_quoted(key)}: {_quoted(value)}" for key, value in pairs.items()]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def _host_words(url: str) -> list[str]:
    return url.partition("://")[2].replace("/", ".").split(".")
