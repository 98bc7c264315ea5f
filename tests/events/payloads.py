"""Payloads in the shapes that Auth0 sends, with values of our own.

Shapes: https://github.com/auth0/auth0-log-schemas (Apache-2.0), Auth0's documentation of log and
event streams, and public fixtures of real traffic.
"""

from __future__ import annotations

import json
from typing import Any

from worker.events import TenantFacts

US = "ourClient00000000000000000000001"
FACTS = TenantFacts(name="acme", own_client_id=US, auth0_name="acme-dev")
ROSA = "google-oauth2|104857600000000000001"


def prompt(name: str = "federated-authenticate", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "completedAt": 1795183331020,
        "connection": "google-oauth2",
        "connection_id": "con_google",
        "strategy": "google-oauth2",
        "identity": "104857600000000000001",
        "stats": {"loginsCount": 42},
    } | more


def log(code: str, log_id: str = "9001", **data: Any) -> dict[str, Any]:
    """One record of a log stream."""
    return {
        "log_id": log_id,
        "data": {
            "date": "2026-11-20T14:02:11.480Z",
            "type": code,
            "description": "as Auth0 describes it",
            "client_id": "portal00000000000000000000000001",
            "client_name": "Acme Portal",
            "ip": "203.0.113.7",
            "tenant_name": "acme-dev",
            "environment_name": "prod-us-4",
            "$event_schema": {"version": "1.0.0"},
            "log_id": log_id,
        }
        | data,
    }


def login(log_id: str = "9001", user_id: str = ROSA, **data: Any) -> dict[str, Any]:
    return log(
        "s",
        log_id,
        **{
            "connection": "google-oauth2",
            "connection_id": "con_google",
            "strategy": "google-oauth2",
            "strategy_type": "social",
            "user_id": user_id,
            "identity_user_id": "104857600000000000001",
            "user_name": "rosa@acme.example",
            "details": {"prompts": [prompt()], "elapsedTime": 6578},
        }
        | data,
    )


def sso_login(log_id: str = "9003") -> dict[str, Any]:
    """Over a live session: no identity provider was asked."""
    return log(
        "s",
        log_id,
        user_id=ROSA,
        connection_id="",
        strategy="",
        strategy_type="",
        details={"prompts": [], "completedAt": 1795187700220, "elapsedTime": None},
    )


def api_write(method: str, path: str, log_id: str = "9301", **data: Any) -> dict[str, Any]:
    """`sapi`, done by an administrator whose id stands where one might take it for the user's."""
    request = {"method": method, "path": path, "query": {}, "body": {"client_secret": "REDACTED"}}
    return log(
        "sapi",
        log_id,
        **{
            "user_id": "auth0|admin",
            "client_id": "dashboard",
            "details": {"request": request, "response": {"statusCode": 200, "body": {}}},
        }
        | data,
    )


def cloud_event(kind: str = "user.updated", event_id: str = "evt_1", **more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "type": kind,
        "source": "urn:auth0:acme-dev.us.auth0.com",
        "time": "2026-11-20T17:00:00.120Z",
        "a0tenant": "acme-dev",
        "a0stream": "est_1",
        "data": {
            "object": {
                "user_id": ROSA,
                "email": "rosa@acme.example",
                "identities": [{"connection": "google-oauth2", "user_id": "104857600000000000001"}],
            },
            "context": {"connection": {"id": "con_google", "name": "google-oauth2"}},
        },
    } | more


def connection_event(kind: str = "connection.updated") -> dict[str, Any]:
    about = {"id": "con_gsuite", "name": "acme-workspace", "strategy": "google-apps"}
    return cloud_event(kind, data={"object": about | {"options": {"granted": True}}})


def event_bridge(detail: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "d72bb5e8-0000-4000-8000-000000000001",
        "detail-type": "Auth0 log",
        "source": "aws.partner/auth0.com/acme-dev-0000/auth0.logs",
        "time": "2026-11-20T14:02:12Z",
        "resources": [],
        "detail": detail,
    }


def action_message(**more: Any) -> dict[str, Any]:
    return {
        "kind": "post-login",
        "tenant": "acme-dev",
        "user_id": ROSA,
        "connection": {"id": "con_google", "name": "google-oauth2", "strategy": "google-oauth2"},
        "client_id": "portal00000000000000000000000001",
        "transaction_id": "tx-1",
        "protocol": "oidc-basic-profile",
        "logins_count": 42,
        "at": "2026-11-20T14:02:11.400Z",
    } | more


def jsonl(*records: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(record).encode() for record in records)


def array(*records: dict[str, Any]) -> bytes:
    return json.dumps(records).encode()


def json_object(*records: dict[str, Any]) -> bytes:
    return json.dumps({"logs": records}, indent=2).encode()


FORMS = {"lines": jsonl, "array": array, "object": json_object}
