"""The table of settings in docs/operating.md, made from the settings themselves.

python -m tests.wiring.settings_table        writes it anew
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

from worker.settings import Settings

PAGE = Path(__file__).parents[2] / "docs/operating.md"
PLACE = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- /settings -->)", re.DOTALL)
TABLES = {"tenants", "providers", "actions", "notices", "source", "warnings"}


def table() -> str:
    lines = ["| name | default | what it is |", "|---|---|---|"]
    lines += ["| `EVERGRANT_CONFIG` | `evergrant.toml` | the configuration file |"]
    for name, field in Settings.model_fields.items():
        if name not in TABLES:
            default = _told(field.default)
            lines.append(f"| `EVERGRANT_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _told(default: object) -> str:
    if default in (None, "", ()):
        return ""
    if isinstance(default, timedelta):
        return f"`{default.total_seconds():g}`"
    return f"`{int(default)}`" if isinstance(default, bool) else f"`{default}`"


def page() -> str:
    return PLACE.sub(lambda match: match[1] + table() + match[2], PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
