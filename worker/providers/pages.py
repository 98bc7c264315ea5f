"""Writes a page for each entry of the catalogue, and the list of them.

    python -m worker.providers.pages docs/providers

The pages are made of the entries alone: mend `catalog.toml`, then run this.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from worker.domain.exchange import Rotation
from worker.providers.catalogue import Catalogue, load_catalogue
from worker.providers.page_call import calling
from worker.providers.page_setup import setting_up
from worker.providers.provider import Kind
from worker.providers.revoking import by_hand
from worker.providers.vocabulary import Entry

_ROTATION = {
    Rotation.N: "The refresh token stays; an answer without one is normal.",
    Rotation.M: "A new refresh token comes, the old one goes on working.",
    Rotation.G: "A refresh spends the refresh token; the old one is still taken for a while.",
    Rotation.S: "A refresh spends the refresh token: only its successor works afterwards.",
    Rotation.F: "A refresh may spend the refresh token, and sending a spent one may end the whole "
    "family; what is not known is treated like this.",
}
_AUTH = {
    "post": "client id and secret in the body",
    "basic": "HTTP Basic",
    "basic_or_post": "client id and secret, in the body",
    "basic_secret_as_user": "HTTP Basic, the secret as user name",
    "none": "client id only",
    "anonymous": "none",
    "secret_only": "the client secret alone",
    "private_key_jwt": "a signed assertion (private_key_jwt), with a key of your own",
    "apple_jwt": "client id and a secret that we sign (ES256)",
    "oauth1": "OAuth 1.0a signature",
    "per_connection": "as the connection says; in the body where it says nothing",
}
_EFFECT = {
    "token": "the token that is sent",
    "refresh_token": "the refresh token; access tokens live out their time",
    "pair": "the refresh token and the access tokens that came of it",
    "grant": "every token of this consent",
    "app": "the person's whole consent to the client, other grants of the same account included",
}
_CONFIDENCE = {
    "documented": "the provider's own documents",
    "code": "the code of other clients",
    "reported": "reports of users",
    "operator": "the operator of this installation",
}
BAR = "\\|"


def pages(catalogue: Catalogue) -> dict[str, str]:
    """File name → Markdown, for every entry and for the list."""
    written = {f"{name}.md": page(Kind(name, catalogue[name])) for name in catalogue.names()}
    return written | {"README.md": listing(catalogue)}


def page(kind: Kind) -> str:
    """One entry."""
    entry = kind.entry
    parts = [
        f"# {entry.display_name}",
        f"Entry `{kind.name}`. {_serves(entry)}",
        _dead(entry),
        _in_short(kind),
        _headed("## Set it up", setting_up(kind.name, entry)),
        _refusals(entry),
        _headed("## How it renews", _renewal(kind)),
        _section("## Traps", entry.traps),
        _answers(entry),
        "## Ending it",
        _revocation(entry),
        "## Call its API",
        calling(kind.name, entry),
        _section("## Changes", _changes(entry)),
        _section("## Sources", [*map(_linked, entry.source), *_grounds(entry)]),
        f"Facts as of {entry.as_of}; grounds: {_CONFIDENCE[entry.confidence]}. Each key can be "
        f"overridden in `[providers.{kind.name}]` of `evergrant.toml`, see "
        "[the catalogue](../catalogue.md).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def listing(catalogue: Catalogue) -> str:
    """All entries in one table."""
    lines = [
        "# Providers",
        "",
        "Made from the catalogue by `python -m worker.providers.pages docs/providers`.",
        "",
        "| Provider | Strategies | Renewed with | Class |",
        "| --- | --- | --- | --- |",
    ]
    for name in sorted(catalogue.names(), key=lambda name: catalogue[name].display_name.lower()):
        kind, entry = Kind(name, catalogue[name]), catalogue[name]
        strategies = ", ".join(f"`{s}`" for s in entry.strategies) or "by token URL"
        lines.append(
            f"| [{entry.display_name}]({name}.md) | {strategies} | {_renewed_with(entry)} "
            f"| {kind.rotation if entry.grant != 'none' else '–'} |"
        )
    return "\n".join(lines) + "\n"


def write(directory: Path) -> int:
    """Write all pages, drop those of entries that are gone; returns how many there are."""
    directory.mkdir(parents=True, exist_ok=True)
    written = pages(load_catalogue({}, allow_loopback=False))
    for stale in {path.name for path in directory.glob("*.md")} - set(written):
        (directory / stale).unlink()
    for name, text in written.items():
        (directory / name).write_text(text, encoding="utf-8")
    return len(written)


def _serves(entry: Entry) -> str:
    said = []
    if entry.strategies:
        said.append("Auth0 strategy " + ", ".join(f"`{s}`" for s in entry.strategies) + ".")
    if entry.match_token_host:
        hosts = ", ".join(f"`{host}`" for host in entry.match_token_host)
        also = "Also custom" if said else "Custom"
        said.append(f"{also} connections whose token URL is at {hosts}.")
    if entry.match_token_path:
        said.append(f"The token URL's path is like `{entry.match_token_path}`.")
    if conditions := [_condition(c) for c in entry.applies_when]:
        said.append("Applies to a grant when " + ", or ".join(conditions) + ".")
    if not said:
        host = urlsplit(entry.token_endpoint).hostname
        where = f" at `{host}`" if host and "{" not in host else ""
        said.append(f"Custom connections whose token URL is{where}, or that name it as `provider`.")
    return " ".join(said)


def _condition(condition: object) -> str:
    told = {
        "option": "`{}`",
        "equals": "is `{}`",
        "token_host": "the token URL is at `{}`",
        "access_token_prefix": "the access token begins with `{}`",
    }
    flags = {
        "has_refresh_token": ("there is a refresh token", "there is no refresh token"),
        "expires_told": ("a lifetime is told", "no lifetime is told"),
    }
    said = []
    for key, text in told.items():
        if (value := getattr(condition, key)) not in (None, ""):
            said.append(text.format(value))
    for key, (yes, no) in flags.items():
        if (value := getattr(condition, key)) is not None:
            said.append(yes if value else no)
    return " and ".join(said).replace("` and is `", "` is `")


def _dead(entry: Entry) -> str:
    return f"**Ended on {entry.dead_since}.** {entry.dead_reason}" if entry.dead_since else ""


def _refusals(entry: Entry) -> str:
    lines = [f"{r.because} {r.advice}".strip() for r in entry.refuse_when]
    return _section("## What stands in the way", list(dict.fromkeys(lines)))


def _renewal(kind: Kind) -> str:
    entry = kind.entry
    if entry.grant == "none":
        return ""
    lives, timing = entry.lifetimes, entry.timing
    rows = {
        "Token endpoint": f"`{entry.refresh_endpoint or entry.token_endpoint}`",
        "Request": f"{entry.method}, {_renewed_with(entry)}"
        + (", parameters in the query string" if entry.params_in == "query" else "")
        + (", as JSON" if entry.body == "json" else ""),
        "Client proves itself by": _AUTH[entry.client_auth],
        "More parameters": ", ".join(f"`{k}={v}`" for k, v in entry.extra_params.items() if v),
        "Class": f"{kind.rotation} ([what that means](../protocol.md))",
        "Grace after a refresh": entry.rotation_grace if kind.rotation is Rotation.G else "",
        "Access token lives": lives.access,
        "An old access token outlives a refresh by": {"0s": "nothing: it ends at once"}.get(
            lives.access_after_refresh, lives.access_after_refresh
        ),
        "Refresh token lives": f"{lives.refresh}, from the {lives.refresh_from}"
        if lives.refresh
        else "",
        "Unused refresh token dies after": lives.idle,
        "A login's token": _first(entry),
        "Renewed before expiry by": timing.margin,
        "Renewed only within": f"{timing.active_within} of a login" if timing.active_within else "",
        "Never renewed sooner after issue than": timing.not_before,
        "Never renewed sooner before expiry than": timing.max_early,
        "Renewed at least every": timing.keepalive,
        "At most": f"{entry.limits.concurrency} at once, {entry.limits.per_second:g} a second"
        + (f" ({entry.limits.note})" if entry.limits.note else ""),
        "Number of tokens": entry.token_limit,
    }
    return _table(rows)


def _first(entry: Entry) -> str:
    """What becomes of it, where it is not renewed like its successors."""
    if (first := entry.first) is None:
        return ""
    if not first.grant:
        return f"lives about {first.lives} where nothing is told, and is exchanged at once"
    grant = f"`{entry.grant_param}={first.grant}`"
    return f"lives about {first.lives}; exchanged once, at once, by {grant}"


def _renewed_with(entry: Entry) -> str:
    if entry.grant == "none":
        return "nothing"
    subject = entry.subject.replace("_", " ")
    return f"the {subject} (`{entry.grant_param}={entry.grant}`)"


def _answers(entry: Entry) -> str:
    """The codes that are the entry's own; those of RFC 6749 §5.2 hold everywhere."""
    if entry.grant == "none":
        return ""
    own = {
        "The grant is dead": entry.errors.permanent,
        "Dead until an admin acts": entry.errors.heals,
        "The client or connection is wrong": entry.errors.config,
        "The same, if it is answered twice": entry.errors.config_if_repeated,
        "Tried again later": entry.errors.transient,
        "Asked too often": entry.errors.too_often,
    }
    rows = {title: ", ".join(f"`{code}`" for code in codes) for title, codes in own.items()}
    if not any(rows.values()):
        return ""
    meant = [f"`{code}`: {what}" for code, what in entry.errors.told.items()]
    listed = "\n\n" + "\n".join(f"- {line}" for line in meant) if meant else ""
    return "## Refusals\n\nBesides the codes of RFC 6749 §5.2:\n\n" + _table(rows) + listed


def _revocation(entry: Entry) -> str:
    revoke = entry.revoke
    said = []
    if revoke.endpoint:
        said.append(
            f"`evergrant grants revoke`, the revoke call of the API and the deletion of a user ask "
            f"`{revoke.method} {revoke.endpoint}`. It ends {_EFFECT[revoke.effect]}."
        )
    else:
        said.append(
            "No request is known that ends a consent or a token here. A grant that is given up is "
            "deleted here and not revoked there: the receipt says `not_offered`."
        )
    access_alone = revoke.effect == "token" and revoke.token == "access_token"
    if revoke.endpoint and access_alone and entry.grant != "none":
        said.append("Nothing says that the refresh token ends with it: receipts say `partly`.")
    if revoke.endpoint and revoke.effect == "app":
        said.append(
            "Other living grants of the same account and client are named first and end only "
            "with `--include-siblings`; a deletion spares a consent on which they hang."
        )
    if not revoke.by_hand:
        place = by_hand(entry).removeprefix("not ")
        said.append(f"Where a person ends it by hand is not {place}.")
    elif entry.grant != "none" or entry.token_endpoint:
        ends = _EFFECT[revoke.by_hand_effect].partition(", other")[0]
        said.append(f"By hand: {revoke.by_hand.rstrip('.')}. That ends {ends}.")
    else:
        said = [revoke.by_hand]
    return " ".join(said)


def _changes(entry: Entry) -> list[str]:
    return [" ".join(filter(None, [f"{c.on}: {c.what}", c.advice])) for c in entry.changes]


def _grounds(entry: Entry) -> list[str]:
    """What rests on something else than the entry as a whole."""
    return [f"`{key}`: {ground}" for key, ground in entry.grounds.items()]


def _in_short(kind: Kind) -> str:
    """What somebody needs to know who reads nothing else."""
    entry, lives = kind.entry, kind.entry.lifetimes
    if entry.grant == "none":
        return f"**Not renewed.** {entry.nothing_to_renew}"
    exchanged = "It is exchanged for a younger one; once it has ended only a login helps."
    what = exchanged if entry.subject == "access_token" else _ROTATION[kind.rotation]
    said = [f"**Renewed** with {_renewed_with(entry)}. {what}"]
    if lives.access:
        said.append(f"An access token lives {_spelt(lives.access)}.")
    if lives.idle:
        said.append(f"A refresh token that nobody uses is dead after {_spelt(lives.idle)}.")
    if lives.refresh and lives.refresh_from == "login":
        end = _spelt(lives.refresh)
        said.append(f"Whatever is done, it ends {end} after the login; a warning comes before.")
    return " ".join(said)


_WORDS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}


def _spelt(length: str) -> str:
    number, unit = length[:-1], _WORDS[length[-1]]
    return f"{number} {unit}" if number == "1" else f"{number} {unit}s"


_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(#\d+)?(?=[ ,]|$)(.*)")


def _linked(source: str) -> str:
    """A repository, as sources name it, as a link; everything else as it stands."""
    found = _REPOSITORY.fullmatch(source)
    if found is None:
        return source
    repository, issue, rest = found[1], found[2] or "", found[3]
    path = f"/issues/{issue[1:]}" if issue else ""
    return f"[{repository}{issue}](https://github.com/{repository}{path}){rest}"


def _headed(title: str, text: str) -> str:
    return f"{title}\n\n{text}" if text else ""


def _table(rows: Mapping[str, str]) -> str:
    """Two columns; a bar inside a cell is escaped."""
    told = [f"| {title} | {text.replace('|', BAR)} |" for title, text in rows.items() if text]
    return "\n".join(["| | |", "| --- | --- |", *told])


def _section(title: str, lines: list[str]) -> str:
    return title + "\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), "pages")  # noqa: T201  # it is a command
