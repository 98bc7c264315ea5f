"""A loopback Auth0 tenant and its identity providers, to rehearse on.

Behaves as the real ones are documented to, faults included, and keeps a ledger of what was done
to each grant. Nothing of the product comes in here: the stage is a counterpart, and knows of
Evergrant only the webhook addresses it is told. Only `worker.cli` imports it.

    with rehearsal(StageSettings(lifetimes={"*": 5})) as stage:
        stage.do("send_to", **webhooks("http://127.0.0.1:8377"))
        user_id = stage.login("google-oauth2", "rosa")
        stage.do("faults", provider="acme", profile="slow", for_seconds=10)
        assert stage.ledger()["total"]["families_lost"] == 0
"""

from .buckets import PLANS
from .config import config_of, environment, webhooks, write_config, write_configs
from .profiles import Profile, load_profiles, profiles
from .serving import ControlError, NoPlaceError, RunningStage, StageClient, rehearsal, serve
from .stage import Stage, StageSettings
from .world import CONNECTIONS, ConnectionSpec

__all__ = [
    "CONNECTIONS",
    "PLANS",
    "ConnectionSpec",
    "ControlError",
    "NoPlaceError",
    "Profile",
    "RunningStage",
    "Stage",
    "StageClient",
    "StageSettings",
    "config_of",
    "environment",
    "load_profiles",
    "profiles",
    "rehearsal",
    "serve",
    "webhooks",
    "write_config",
    "write_configs",
]
