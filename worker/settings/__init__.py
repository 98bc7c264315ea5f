"""The sole reader of the environment and of `evergrant.toml`.

Precedence: the environment, then `.env` beside the configuration file, then the file, then the
defaults. A value `env:NAME` or `file:PATH` (relative to the file) is read from there, so that
the file itself holds no secret; a role reads those that it uses. What is misspelt stops the start:
a setting that silently does nothing is worse than none.
"""

from worker.settings.least import act_as
from worker.settings.loading import (
    DEFAULT_TENANT,
    database_url,
    load,
    private_place,
    share_metrics,
)
from worker.settings.tables import (
    ActionSettings,
    ApiKeySettings,
    ConnectionSettings,
    NoticeSettings,
    Settings,
    TenantSettings,
)

__all__ = [
    "DEFAULT_TENANT",
    "ActionSettings",
    "ApiKeySettings",
    "ConnectionSettings",
    "NoticeSettings",
    "Settings",
    "TenantSettings",
    "act_as",
    "database_url",
    "load",
    "private_place",
    "share_metrics",
]
