"""What the types of an entry cannot say: keys that need each other, spellings, addresses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches

import msgspec

from worker.providers import paths, templates
from worker.providers.complaints import suggestion
from worker.providers.hooks import HOOKS, INTROSPECT
from worker.providers.vocabulary import Entry

Problem = tuple[str, str]  # the key, and what is wrong with it


def inconsistencies(name: str, entry: Entry, *, plain_http: bool) -> Iterator[Problem]:
    """Lazily: the first one stops the start.

    Args:
        plain_http: rehearsals only; an address may be plain http.
    """
    if not _NAME.fullmatch(name):  # it names a queue, a task and a page
        yield "display_name", f"'{name}' is no name: lower case letters, digits, - and _"
    if not entry.display_name:
        yield "display_name", "display_name is missing"
    if entry.hook and entry.hook not in HOOKS:
        yield "hook", f"there is no hook '{entry.hook}'{suggestion(entry.hook, HOOKS)}"
    if entry.hook == INTROSPECT and not entry.introspection_endpoint:
        yield "hook", f"the hook {INTROSPECT} needs introspection_endpoint"
    if entry.grant != "none" and not (entry.token_endpoint or entry.refresh_endpoint):
        yield "token_endpoint", 'token_endpoint is missing (or grant = "none")'
    yield from _first_inconsistencies(entry)
    if entry.rotation == "single_use_grace" and not entry.rotation_grace:
        yield "rotation", 'rotation = "single_use_grace" needs rotation_grace'
    yield from _ground_inconsistencies(entry)
    yield from misspellings(entry, plain_http=plain_http)


def misspellings(entry: Entry, *, plain_http: bool) -> Iterator[Problem]:
    """Of what is given: so much holds for the few keys of a connection too."""
    for key, template in _templates(entry):
        if problem := templates.problem_in(template):
            yield key, f"template '{template}': {problem}"
    yield from _misplaced(entry, plain_http=plain_http)
    for key, path in _paths(entry):
        if not paths.SPELLING.fullmatch(path):
            yield key, f"'{path}' is not a path such as error.code or errors[0].type"
    for expiry in entry.expiry:
        if (expiry.form == "declared") == bool(expiry.path):
            yield "expiry", f"form '{expiry.form}' needs a path, 'declared' has none"


def _ground_inconsistencies(entry: Entry) -> Iterator[Problem]:
    for key in entry.grounds:
        if key.partition(".")[0] not in Entry.__struct_fields__:
            yield "grounds", f"'{key}' is no key{suggestion(key, Entry.__struct_fields__)}"


def _first_inconsistencies(entry: Entry) -> Iterator[Problem]:
    first = entry.first
    if first and not first.lives:
        yield "first", "first needs lives: how long a login's token lives where nobody tells"
    if first and (first.grant or first.token_endpoint) and not entry.timing.not_before:
        yield (
            "first",
            "first with a request of its own needs timing.not_before: it tells them apart",
        )


def _templates(entry: Entry) -> Iterator[Problem]:
    yield from _addresses(entry)
    yield from (("extra_params", t) for t in entry.extra_params.values())
    yield from (("extra_params", t) for t in entry.revoke.extra_params.values())
    yield from (("headers", t) for t in entry.headers.values())


def _paths(entry: Entry) -> Iterator[Problem]:
    yield from (("codes_at", code.path) for code in entry.errors.codes_at)
    yield from (("ok_at", path) for path in [entry.errors.ok_at] if path)
    yield from (("expiry", form.path) for form in entry.expiry if form.path)
    for key, listed in msgspec.structs.asdict(entry.response_map).items():
        yield from ((key, path) for path in listed)


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_CLOSE = 0.92  # a strategy of Auth0's that we do not know yet is no mistake; a slip of one is


def _misplaced(entry: Entry, *, plain_http: bool) -> Iterator[Problem]:
    """Addresses that would be refused when a token is to go there, and headers that cannot be."""
    schemes = ("https://", "http://") if plain_http else ("https://",)
    for key, template in _addresses(entry):
        for one in filter(None, template.split(" | ")):
            if "@" in one.partition("://")[2].partition("/")[0]:
                yield key, "an address holds a user or password: use client_id and client_secret"
            if not one.startswith(("{", *schemes)):
                yield key, f"'{one}' is no address: it begins with https:// or a placeholder"
    for header, value in entry.headers.items():
        if not (header + value).isprintable():
            yield "headers", f"header '{header}' holds a control character"


def unknown_strategies(strategies: Iterable[str], known: Collection[str]) -> Iterator[Problem]:
    for strategy in strategies:
        close = get_close_matches(strategy, known, n=1, cutoff=_CLOSE)
        if strategy not in known and close:
            yield (
                "strategies",
                f"Auth0 has no strategy '{strategy}'; did you mean '{close[0]}'?",
            )


def _addresses(entry: Entry) -> Iterator[Problem]:
    yield "token_endpoint", entry.token_endpoint
    yield "refresh_endpoint", entry.refresh_endpoint
    yield "first", entry.first.token_endpoint if entry.first else ""
    yield "introspection_endpoint", entry.introspection_endpoint
    yield "endpoint", entry.revoke.endpoint
