"""The JSON Schema of the catalogue, made from the vocabulary.

python -m worker.providers.schema        writes catalog.schema.json beside this file
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from worker.providers.vocabulary import Entry


def catalogue_schema() -> dict[str, Any]:
    """Of a file of entries: one table per provider."""
    (entry,), definitions = msgspec.json.schema_components([Entry], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Evergrant provider catalogue",
        "description": "Entries of catalog.toml, and of [providers.*] in evergrant.toml.",
        "type": "object",
        "additionalProperties": entry,
        "$defs": definitions,
    }


if __name__ == "__main__":
    target = Path(__file__).with_name("catalog.schema.json")
    target.write_text(json.dumps(catalogue_schema(), indent=2) + "\n", encoding="utf-8")
