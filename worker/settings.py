"""The sole reader of the environment and of `evergrant.toml`. (Placeholder; see DESIGN.)"""

from __future__ import annotations

import os


def database_url() -> str:
    return os.environ.get("EVERGRANT_DATABASE_URL", "sqlite:///.evergrant/evergrant.db")
