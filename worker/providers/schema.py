"""The JSON Schema of the catalogue, made from the vocabulary.

python -m worker.providers.schema        writes catalog.schema.json beside this file
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from worker.providers.loading import CONNECTION_KEYS
from worker.providers.vocabulary import Entry


def catalogue_schema() -> dict[str, Any]:
    """Of a file of entries: one table per provider."""
    (entry,), definitions = msgspec.json.schema_components([Entry], ref_template="#/$defs/{name}")
    hosts = definitions[entry["$ref"].rpartition("/")[2]]["properties"]["match_token_host"]
    hosts["type"] = ["array", "string"]  # one may be written without the list
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Evergrant provider catalogue",
        "description": "Entries of catalog.toml, and of [providers.*] in evergrant.toml.",
        "type": "object",
        "additionalProperties": entry,
        "$defs": definitions,
    }


def configuration_schema() -> dict[str, Any]:
    """Of evergrant.toml, as far as providers go: `[providers.*]` and the keys of connections.

    Other tables are taken as they come; the start checks them.
    """
    whole = catalogue_schema()
    of_entry, definitions = whole["additionalProperties"], whole["$defs"]
    entry = definitions[of_entry["$ref"].rpartition("/")[2]]
    own = {key: {"type": "string"} for key in sorted(CONNECTION_KEYS - _NOT_TEXT)}
    others = {"required_scopes": {"type": "array", "items": {"type": "string"}}}
    others |= {"enabled": {"type": "boolean"}}
    connection = {**entry, "properties": {**entry["properties"], **own, **others}}
    tenant = {
        "type": "object",
        "properties": {
            "connections": {
                "type": "object",
                "additionalProperties": {"$ref": "#/$defs/Connection"},
            }
        },
    }
    return {
        **whole,
        "title": "evergrant.toml",
        "description": "Made by `evergrant providers schema`.",
        "additionalProperties": True,
        "properties": {
            "providers": {"type": "object", "additionalProperties": of_entry},
            "tenants": {"type": "object", "additionalProperties": tenant},
        },
        "$defs": {**definitions, "Connection": connection},
    }


_NOT_TEXT = frozenset({"required_scopes", "enabled"})

if __name__ == "__main__":
    target = Path(__file__).with_name("catalog.schema.json")
    target.write_text(json.dumps(catalogue_schema(), indent=2) + "\n", encoding="utf-8")
