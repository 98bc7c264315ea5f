"""The Management API of the rehearsed tenant: the reads Evergrant needs, and Auth0's refusals.

Source of paths, parameters and answers: https://auth0.com/docs/api/management/v2 and the models of
auth0-python 6.8.0, which the tests let judge this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .buckets import Buckets
from .event_log import EventLog
from .exports import Exports, answered
from .faults import Answer, Faults, play
from .records import Record, api_details, from_api
from .search import matches, parsed
from .senders import EventStream, LogStream
from .tenant import Tenant
from .tenant_tokens import InvalidTokenError, TenantTokens
from .values import NoSuchError, User

MOST_BY_PAGE = 1000  # records that offset paging reaches


class ProblemError(Exception):
    """An answer that is not 2xx, in the Management API's form."""

    def __init__(self, status: int, error: str, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: Record = {"statusCode": status, "error": error, "message": message}
        if code:
            self.body["errorCode"] = code


class ManagementApi:
    """Serves `/api/v2/…`."""

    def __init__(
        self,
        tenant: Tenant,
        tokens: TenantTokens,
        *,
        buckets: Buckets,
        faults: Faults,
        streams: Callable[[], Iterable[EventStream]],
        log_streams: Callable[[], Iterable[LogStream]],
        events: EventLog,
        exports: Exports,
        log_reads: bool = False,
    ) -> None:
        self.tenant = tenant
        self.buckets = buckets
        self._tokens = tokens
        self._faults = faults
        self._streams = streams
        self._log_streams = log_streams
        self._events = events
        self._exports = exports
        self._log_reads = log_reads
        self.requests: dict[str, int] = {}  # by group

    async def handle(self, request: Request) -> Response:
        """Serve one request; `request.path_params["rest"]` is what follows `/api/v2/`."""
        if request.method == "POST":
            request.state.body = await request.body()
        fault = self._faults.pick("auth0", "management")
        if fault is None and "identities." in request.query_params.get("q", ""):
            fault = self._faults.pick("auth0", "search")
        return await play(fault, request, lambda: Answer(self._answer(request)), _broken)

    def _answer(self, request: Request) -> Response:
        raw = request.scope["raw_path"].decode("ascii").partition("?")[0]
        parts = raw.removeprefix("/api/v2/").split("/")
        group = parts[0]
        self.requests[group] = self.requests.get(group, 0) + 1
        verdict = self.buckets.take(group)
        try:
            if not verdict.passed:
                raise _too_many(tenant_wide=verdict.tenant_wide)
            response = self._route(request, parts)
        except ProblemError as problem:
            response = JSONResponse(problem.body, problem.status)
        response.headers.update(verdict.headers)
        return response

    def _route(self, request: Request, parts: list[str]) -> Response:
        scopes = self._scopes(request)
        if any(re.search(r"[|<>\"{}]", part) for part in parts):
            raise ProblemError(
                400, "Bad Request", "Path validation error: invalid URI.", "invalid_uri"
            )
        match [request.method, *map(unquote, parts)]:
            case ["GET", "users"]:
                answer = self._users(request, scopes)
            case ["GET", "users", user_id]:
                answer = self._user(request, scopes, user_id)
            case ["GET", "connections"]:
                answer = self._connections(request, scopes)
            case ["GET", "connections", connection_id]:
                answer = self._connection(request, scopes, connection_id)
            case ["GET", "logs"]:
                answer = self._logs(request, scopes)
            case [_, "jobs", *rest]:
                answer = self._jobs(request, scopes, rest)
            case ["GET", "events"]:
                _demand(scopes, "read:events")
                answer = self._events.answer(request)
            case ["GET", "log-streams"]:
                _demand(scopes, "read:log_streams")
                answer = JSONResponse([stream.as_json() for stream in self._log_streams()])
            case ["GET", "event-streams"]:
                answer = self._event_streams(scopes)
            case [_, "event-streams", stream_id, doing, *event]:
                answer = self._of_stream(request, scopes, stream_id, [doing, *event])
            case _:
                raise ProblemError(404, "Not Found", "Not Found")
        return answer

    def _scopes(self, request: Request) -> frozenset[str]:
        try:
            return self._tokens.scopes_of(request.headers.get("authorization", ""))
        except InvalidTokenError as error:
            problem = ProblemError(401, "Unauthorized", str(error))
            problem.body["attributes"] = {"error": str(error)}
            raise problem from None

    # ------------------------------------------------------------ users

    def _user(self, request: Request, scopes: frozenset[str], user_id: str) -> Response:
        _demand(scopes, "read:users")
        try:
            user = self.tenant.user(user_id)
        except NoSuchError:
            raise ProblemError(
                404, "Not Found", "The user does not exist.", "inexistent_user"
            ) from None
        tokens = "read:user_idp_tokens" in scopes
        if tokens and any(identity.access_token for identity in user.identities):
            self._note_read("Get a User", request, ["identities.0.access_token"])
        return JSONResponse(_chosen(request, user.as_json(tokens=tokens)))

    def _users(self, request: Request, scopes: frozenset[str]) -> Response:
        _demand(scopes, "read:users")
        now = self.tenant.now()
        terms = parsed(request.query_params.get("q", ""))
        found = [user for user in self.tenant.users.values() if matches(user, terms, now=now)]
        field, _, order = request.query_params.get("sort", "created_at:1").partition(":")
        found.sort(
            key=lambda user: (getattr(user, field, None) or 0, user.user_id), reverse=order == "-1"
        )
        tokens = "read:user_idp_tokens" in scopes

        def show(user: User) -> Record:
            return _chosen(request, user.as_json(tokens=tokens))

        return JSONResponse(_offset(request, "users", found, show))

    def _jobs(self, request: Request, scopes: frozenset[str], rest: list[str]) -> Response:
        _demand(scopes, "read:users")
        if request.method == "GET":
            return answered(self._exports.look("/".join(rest)))
        if self.buckets.plan == "free":
            message = "This feature is not available on the tenant's plan."
            raise ProblemError(403, "Forbidden", message, "insufficient_entitlement")
        try:
            asked = json.loads(request.state.body or b"{}")
        except ValueError:
            raise ProblemError(400, "Bad Request", "Not JSON.", "invalid_body") from None
        return answered(self._exports.begin(asked))

    # ------------------------------------------------------------ connections

    def _connection(self, request: Request, scopes: frozenset[str], id_: str) -> Response:
        _demand(scopes, "read:connections")
        with_options = "read:connections_options" in scopes
        for connection in self.tenant.connections.values():
            if connection.id == id_:
                if with_options:
                    self._note_read("Get a connection", request, ["client_secret"])
                return JSONResponse(_chosen(request, connection.as_json(options=with_options)))
        raise ProblemError(
            404, "Not Found", "The connection does not exist", "inexistent_connection"
        )

    def _connections(self, request: Request, scopes: frozenset[str]) -> Response:
        _demand(scopes, "read:connections")
        query = request.query_params
        with_options = "read:connections_options" in scopes
        strategies, name = query.getlist("strategy"), query.get("name")
        found = [
            _chosen(request, connection.as_json(options=with_options))
            for connection in sorted(self.tenant.connections.values(), key=lambda one: one.id)
            if (not strategies or connection.strategy in strategies)
            and (name is None or connection.name == name)
        ]
        if with_options and found:
            self._note_read("Get all connections", request, ["client_secret"])
        if "take" in query or "from" in query:
            return JSONResponse(_checkpoint(request, "connections", found))
        return JSONResponse(_offset(request, "connections", found, dict))

    # ------------------------------------------------------------ logs and streams

    def _logs(self, request: Request, scopes: frozenset[str]) -> Response:
        _demand(scopes, "read:logs")
        query, log = request.query_params, self.tenant.log
        if "from" in query or "take" in query:
            take = _number(request, "take", 50, 100)
            found = log.after(query.get("from"), take)
            headers = {}
            if found:
                here = str(request.url.replace(query=""))
                after = f"{here}?from={found[-1]['log_id']}&take={take}"
                headers["link"] = f'<{after}>; rel="next"'
            return JSONResponse([from_api(record) for record in found], headers=headers)
        ordered = log.records if query.get("sort") == "date:1" else log.records[::-1]
        return JSONResponse(_offset(request, "logs", ordered[:MOST_BY_PAGE], from_api))

    def _event_streams(self, scopes: frozenset[str]) -> Response:
        _demand(scopes, "read:event_streams")
        return JSONResponse({"eventStreams": [stream.as_json() for stream in self._streams()]})

    def _of_stream(
        self, request: Request, scopes: frozenset[str], id_: str, rest: list[str]
    ) -> Response:
        match [request.method, *rest]:
            case ["GET", "deliveries"]:
                return self._deliveries(request, scopes, id_)
            case ["POST", "redeliver", *event]:
                return self._redeliver(scopes, id_, event)
        raise ProblemError(404, "Not Found", "Not Found")

    def _deliveries(self, request: Request, scopes: frozenset[str], id_: str) -> Response:
        _demand(scopes, "read:event_deliveries")
        stream = self._stream(id_)
        wanted = request.query_params.get("statuses", "failed").split(",")
        found = [body for body in stream.deliveries_json() if body["status"] in wanted]
        return JSONResponse(_checkpoint(request, "deliveries", found))

    def _redeliver(self, scopes: frozenset[str], id_: str, event: list[str]) -> Response:
        _demand(scopes, "update:event_deliveries")
        self._stream(id_).redeliver(event[0] if event else None)
        return JSONResponse({}, 202)

    def _stream(self, id_: str) -> EventStream:
        for stream in self._streams():
            if stream.id == id_:
                return stream
        raise ProblemError(404, "Not Found", "The event stream does not exist.")

    # ------------------------------------------------------------ inside

    def _note_read(self, description: str, request: Request, secrets: list[str]) -> None:
        """A read that returned a secret is an event of its own (`mgmt_api_read`)."""
        if not self._log_reads:
            return
        client_id = self._tokens.application.client_id
        path = request.scope["raw_path"].decode("ascii")
        self.tenant.log.write(
            "mgmt_api_read",
            description,
            client_id=client_id,
            client_name="evergrant",
            user_id=f"{client_id}@clients",
            details=api_details("get", path, 200, secrets=secrets),
        )


def _broken(situation: str) -> Response:
    return JSONResponse({"statusCode": 500, "error": "Internal Server Error", "message": ""}, 500)


def _too_many(*, tenant_wide: bool) -> ProblemError:
    message = (
        "Global limit has been reached"
        if tenant_wide
        else "Too many requests. Check the X-RateLimit-Limit, X-RateLimit-Remaining and "
        "X-RateLimit-Reset headers."
    )
    return ProblemError(429, "Too Many Requests", message, "too_many_requests")


def _demand(scopes: frozenset[str], scope: str) -> None:
    if scope not in scopes:
        message = f"Insufficient scope, expected any of: {scope}"
        raise ProblemError(403, "Forbidden", message, "insufficient_scope")


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdigit() or int(text) > most:
        message = f"Query validation error: '{text}' on property {name}."
        raise ProblemError(400, "Bad Request", message, "invalid_query_string")
    return int(text)


def _chosen(request: Request, body: Record) -> Record:
    """`fields` and `include_fields`, on top-level names."""
    names = [name for name in request.query_params.get("fields", "").split(",") if name]
    if not names:
        return body
    include = request.query_params.get("include_fields", "true") != "false"
    return {name: value for name, value in body.items() if (name in names) == include}


def _page(request: Request) -> tuple[int, int]:
    """Where an offset page starts and how long it may be. Raises ProblemError past 1000."""
    page, per_page = _number(request, "page", 0, 10**6), _number(request, "per_page", 50, 100)
    if (page + 1) * per_page > MOST_BY_PAGE:
        message = "You can only page through the first 1000 records."
        raise ProblemError(400, "Bad Request", message, "invalid_paging")
    return page * per_page, per_page


def _offset(request: Request, name: str, found: list[Any], show: Callable[[Any], Record]) -> Any:
    start, limit = _page(request)
    chosen = [show(one) for one in found[start : start + limit]]
    if request.query_params.get("include_totals", "false") != "true":
        return chosen
    counts = {"start": start, "limit": limit, "length": len(chosen), "total": len(found)}
    return {name: chosen, **counts}


def _checkpoint(request: Request, name: str, found: list[Record]) -> Record:
    """`from` is the opaque mark of the last record seen; `next` is missing on the last page."""
    take, mark = _number(request, "take", 50, 100), request.query_params.get("from", "")
    start = int(mark, 16) if re.fullmatch(r"[0-9a-f]{1,8}", mark) else 0
    body: Record = {name: found[start : start + take]}
    return body | ({"next": f"{start + take:08x}"} if start + take < len(found) else {})
