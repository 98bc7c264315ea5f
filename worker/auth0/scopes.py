"""What our Management API token must be allowed to do, and what fails without it."""

from __future__ import annotations

from collections.abc import Mapping

# Without the second and the fourth Auth0 answers 200 and leaves the tokens, or the options, out:
# a missing scope looks like a user without tokens. Hence this list, checked at start.
# https://auth0.com/docs/troubleshoot/product-lifecycle/deprecations-and-migrations/migrate-connection-options-scope
NEEDED: Mapping[str, str] = {
    "read:users": "no user can be read, so no login brings tokens",
    "read:user_idp_tokens": "users are read without their tokens, so nothing is ever stored",
    "read:connections": "no connection can be read, so nothing can be renewed",
    "read:connections_options": (
        "connections are read without client_id and client_secret, so nothing can be renewed "
        "unless evergrant.toml gives them"
    ),
}
USEFUL: Mapping[str, str] = {
    "read:logs": "events whose webhooks were lost are found only by the nightly reconcile",
}
STREAMS: Mapping[str, str] = {  # where webhooks of Auth0's streams are set up
    "read:log_streams": "a log stream that Auth0 has suspended is not noticed",
    "read:event_streams": "an event stream that Auth0 has disabled is not noticed",
    "read:event_deliveries": "events that an event stream failed to deliver are not fetched",
    "update:event_deliveries": "failed events are fetched, but go on counting against the stream",
}
EVENTS_API: Mapping[str, str] = {
    "read:events": "`events_api` is on, and the Events API cannot be read",
}


def missing_scopes(granted: str) -> Mapping[str, str]:
    """Needed scopes that `granted` (space separated) lacks, and what will not work for it."""
    return _lacking(NEEDED, granted)


def missing_useful_scopes(granted: str) -> Mapping[str, str]:
    """The same of scopes that merely make things better."""
    return _lacking(USEFUL, granted)


def missing_following_scopes(
    granted: str, *, log_stream: bool, event_stream: bool, events_api: bool
) -> Mapping[str, str]:
    """The same of scopes that following needs, by what of it is set up."""
    wanted = dict(EVENTS_API) if events_api else {}
    for scope, effect in STREAMS.items():
        if log_stream if scope == "read:log_streams" else event_stream:
            wanted[scope] = effect
    return _lacking(wanted, granted)


def _lacking(wanted: Mapping[str, str], granted: str) -> Mapping[str, str]:
    have = set(granted.split())
    return {scope: effect for scope, effect in wanted.items() if scope not in have}
