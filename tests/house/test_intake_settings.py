"""What docs/intake.md and docs/auth0.md tell people to set up at Auth0 is what Auth0's API knows.

Names are held against the models of auth0-python, which are made from Auth0's API definition, and
against what the rehearsal tenant shows. Terraform is parsed, and says the same as the others.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import hcl2
import pydantic
import pytest
import yaml
from auth0.management.actions.client import ActionsClient
from auth0.management.client_grants.client import ClientGrantsClient
from auth0.management.types.action_trigger_type_enum import ActionTriggerTypeEnum
from auth0.management.types.create_event_stream_action_request_content import (
    CreateEventStreamActionRequestContent,
)
from auth0.management.types.create_event_stream_event_bridge_request_content import (
    CreateEventStreamEventBridgeRequestContent,
)
from auth0.management.types.create_event_stream_web_hook_request_content import (
    CreateEventStreamWebHookRequestContent,
)
from auth0.management.types.create_log_stream_event_bridge_request_body import (
    CreateLogStreamEventBridgeRequestBody,
)
from auth0.management.types.create_log_stream_http_request_body import (
    CreateLogStreamHttpRequestBody,
)
from auth0.management.types.event_stream_event_type_enum import EventStreamEventTypeEnum
from auth0.management.types.log_stream_filter_group_name_enum import LogStreamFilterGroupNameEnum

from worker.auth0.scopes import EVENTS_API, NEEDED, STREAMS, USEFUL
from worker.rehearsal import StageSettings, rehearsal
from worker.settings import TenantSettings

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("intake", "auth0")}
EVERY_SCOPE = {*NEEDED, *USEFUL, *STREAMS, *EVENTS_API}
LOG_STREAMS = {
    "http": CreateLogStreamHttpRequestBody,
    "eventbridge": CreateLogStreamEventBridgeRequestBody,
}
EVENT_STREAMS = {
    "webhook": CreateEventStreamWebHookRequestContent,
    "eventbridge": CreateEventStreamEventBridgeRequestContent,
    "action": CreateEventStreamActionRequestContent,
}
SECRETS = set(re.findall(r"secrets\.(\w+)", (DOCS / "snippets" / "action.js").read_text()))
# secrets are written and never shown, so the models, which read answers, lack them
# https://github.com/auth0/terraform-provider-auth0, docs/resources/event_stream.md
WRITE_ONLY = {".destination.configuration.webhook_authorization.token"}


def fences(kind: str) -> Iterator[str]:
    for page in PAGES.values():
        yield from re.findall(rf"^```{kind}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def deployed(name: str) -> list[dict[str, Any]]:
    """What the deploy-cli's files say of one kind of resource."""
    return [one for fence in fences("yaml") for one in yaml.safe_load(fence).get(name, [])]


def terraform(kind: str) -> list[dict[str, Any]]:
    found = []
    for fence in fences("hcl"):
        for resource in hcl2.loads(fence)["resource"]:
            found += [body for name, body in resource.items() if name.strip('"') == kind]
    return [_plain(body) for named in found for name, body in named.items() if name[:2] != "__"]


def _plain(told: Any) -> Any:
    """Without the parser's marks: quotes around words, and its own keys."""
    if isinstance(told, dict):
        return {name: _plain(value) for name, value in told.items() if not name.startswith("__")}
    if isinstance(told, list):
        return [_plain(one) for one in told]
    return told.strip('"') if isinstance(told, str) else told


def strangers(value: Any, at: str = "") -> list[str]:
    """Fields that a model took without knowing them."""
    if isinstance(value, list | tuple):
        return [name for one in value for name in strangers(one, at)]
    if not isinstance(value, pydantic.BaseModel):
        return []
    found = [f"{at}.{name}" for name in value.model_extra or {}]
    for name in type(value).model_fields:
        found += strangers(getattr(value, name), f"{at}.{name}")
    return found


def known(model: type[pydantic.BaseModel], told: dict[str, Any]) -> None:
    assert set(strangers(model.model_validate(told))) <= WRITE_ONLY


def words_of(enum: Any) -> set[str]:
    return set(get_args(get_args(enum)[0]))


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize("one", deployed("logStreams"), ids=lambda one: one["name"])
def test_the_deploy_cli_makes_log_streams_as_auth0_knows_them(one: dict[str, Any]) -> None:
    known(LOG_STREAMS[one["type"]], one)
    assert {told["name"] for told in one.get("filters", [])} <= words_of(
        LogStreamFilterGroupNameEnum
    )


@pytest.mark.parametrize("one", deployed("eventStreams"), ids=lambda one: one["name"])
def test_the_deploy_cli_makes_event_streams_as_auth0_knows_them(one: dict[str, Any]) -> None:
    known(EVENT_STREAMS[one["destination"]["type"]], one)
    told = {subscription["event_type"] for subscription in one["subscriptions"]}
    assert told <= words_of(EventStreamEventTypeEnum)


@pytest.mark.parametrize("one", deployed("actions"), ids=lambda one: one["name"])
def test_the_deploy_cli_makes_the_actions(one: dict[str, Any]) -> None:
    assert set(one) - {"deployed"} <= parameters(ActionsClient.create)
    [trigger] = one["supported_triggers"]
    assert trigger["id"] in words_of(ActionTriggerTypeEnum)
    assert {secret["name"] for secret in one["secrets"]} == SECRETS
    handler = {"post-login": "onExecutePostLogin", "event-stream": "onExecuteEventStream"}
    assert f"exports.{handler[trigger['id']]} " in (DOCS / "snippets" / "action.js").read_text()


def test_an_event_streams_action_is_one_of_those_that_are_made() -> None:
    made = {one["name"] for one in deployed("actions")}
    named = {
        one["destination"]["configuration"]["action_id"]
        for one in deployed("eventStreams")
        if one["destination"]["type"] == "action"
    }
    assert named
    assert named <= made


def test_every_scope_that_evergrant_can_use_is_granted_and_no_other() -> None:
    [grant] = deployed("clientGrants")
    assert set(grant) <= parameters(ClientGrantsClient.create)
    assert set(grant["scope"]) == EVERY_SCOPE
    granted = [set(one["scopes"]) for one in terraform("auth0_client_grant")]
    assert EVERY_SCOPE in granted
    assert all(one <= EVERY_SCOPE for one in granted)
    [patch] = [json.loads(flags["data"]) for what, flags in cli() if what.startswith("api patch")]
    assert set(patch["scope"]) == EVERY_SCOPE


def test_terraform_makes_the_same_log_streams() -> None:
    for one in terraform("auth0_log_stream"):
        [sink] = one["sink"]
        fields = LOG_STREAMS[one["type"]].model_fields["sink"].annotation
        assert set(sink) <= set(fields.model_fields)
        told = next(d for d in deployed("logStreams") if d["type"] == one["type"])
        names = {name: field.alias or name for name, field in fields.model_fields.items()}
        assert {names[name] for name in sink} == set(told["sink"])
        for filter_ in told.get("filters", []):
            assert filter_["name"] in str(one["filters"])


def test_terraform_makes_the_same_event_streams() -> None:
    for one in terraform("auth0_event_stream"):
        kind = one["destination_type"]
        told = next(d for d in deployed("eventStreams") if d["destination"]["type"] == kind)
        assert one["subscriptions"] == [each["event_type"] for each in told["subscriptions"]]
        [configuration] = one[f"{kind}_configuration"]
        expected = told["destination"]["configuration"]
        assert set(configuration) == set(expected)
        for secret in configuration.get("webhook_authorization", []):
            names = {name.removesuffix("_version").removesuffix("_wo") for name in secret}
            assert names == set(expected["webhook_authorization"])


def test_terraform_makes_the_action() -> None:
    [one] = terraform("auth0_action")
    assert {secret["name"] for secret in one["secrets"]} == SECRETS
    assert [dict(t) for t in one["supported_triggers"]] == deployed("actions")[0][
        "supported_triggers"
    ]


# https://github.com/auth0/auth0-cli, docs/auth0_*.md, long flags
FLAGS = {
    "logs streams create http": {"name", "endpoint", "type", "format", "authorization"},
    "logs streams create eventbridge": {"name", "aws-id", "aws-region"},
    "event-streams create": {"name", "type", "subscriptions", "configuration"},
    "actions create": {"name", "trigger", "runtime", "code", "secret"},
    "actions deploy": set(),
    "api patch": {"data"},
}


def cli() -> Iterator[tuple[str, dict[str, str]]]:
    """Each `auth0 …` that is shown: what it does, and its flags (the last of those repeated)."""
    for fence in fences("sh"):
        for command in re.split(r"^auth0 ", fence.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            words = shlex.split(command)
            flags = {w[2:]: words[n + 1] for n, w in enumerate(words) if w.startswith("--")}
            yield " ".join(words).partition(" --")[0], flags


@pytest.mark.parametrize(("what", "flags"), [*cli()], ids=lambda told: str(told)[:40])
def test_the_auth0_cli_knows_the_command(what: str, flags: dict[str, str]) -> None:
    command = next(name for name in FLAGS if what.startswith(name))
    assert set(flags) <= FLAGS[command]
    if command != "event-streams create":
        return
    configuration = json.loads(flags["configuration"].replace("$ACTION_ID", "act_1"))
    subscribed = flags["subscriptions"].split(",")
    assert set(subscribed) <= words_of(EventStreamEventTypeEnum)
    told = {"destination": {"type": flags["type"], "configuration": configuration}}
    known(EVENT_STREAMS[flags["type"]], told)


def test_every_way_to_set_up_is_shown_for_every_source() -> None:
    """Dashboard, CLI, Terraform, deploy-cli; an event stream's Action has no Terraform."""
    parts = re.split(r"^##+ ", PAGES["intake"], flags=re.MULTILINE)
    sections = {part.partition("\n")[0]: part for part in parts}
    for name in ("Log stream", "Event stream", "Post-login Action", "An Event Stream's Action",
                 "EventBridge", "Scopes for what Evergrant asks"):  # fmt: skip
        ways = {"Dashboard:", "```sh\nauth0 ", "```yaml\n", "```hcl\n"}
        if name == "An Event Stream's Action":
            ways = ways - {"```hcl\n"} | {"Terraform"}
        assert {way for way in ways if way not in sections[name]} == set(), name


def test_addresses_lead_to_doors_that_are_there() -> None:
    paths = {re.sub(r"https://[^/]+", "", url) for url in re.findall(
        r"https://tokens\.example\.com[^\s\"`\\]*", PAGES["intake"])}  # fmt: skip
    assert paths == {f"/hooks/auth0/acme/{door}" for door in ("logs", "events", "actions")}


def test_settings_of_a_tenant_are_those_that_are_read() -> None:
    for fence in fences("toml"):
        for tenant in tomllib.loads(fence).get("tenants", {}).values():
            assert set(tenant) <= set(TenantSettings.model_fields)


def test_the_rehearsal_tenant_shows_streams_by_the_same_names() -> None:
    with rehearsal(StageSettings()) as stage:
        stage.do(
            "send_to",
            logs={"url": "http://127.0.0.1:9/x", "authorization": "x"},
            events={"url": "http://127.0.0.1:9/x", "bearer": "x"},
        )
        logs, events = stage.stage.log_streams[0].as_json(), stage.stage.event_streams[0].as_json()
    [ours] = [one for one in deployed("logStreams") if one["type"] == "http"]
    assert set(logs["sink"]) <= set(ours["sink"])
    [ours] = [one for one in deployed("eventStreams") if one["destination"]["type"] == "webhook"]
    assert set(events["destination"]["configuration"]) <= set(ours["destination"]["configuration"])
