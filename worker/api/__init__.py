"""The door for apps: HTTP in, access tokens out. FastAPI lives here.

Use cases come in ready-made; this room knows paths, headers, JSON and problem documents only.
Routes of other doors (webhooks, health, metrics) are handed in and mounted beside it.
"""

from worker.api.app import build_app
from worker.api.keys import KeyBook
from worker.api.subjects import Subjects, Trust

__all__ = ["KeyBook", "Subjects", "Trust", "build_app"]
