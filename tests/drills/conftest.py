"""The authorization server that we did not write."""

from __future__ import annotations

from tests.counterparties.conftest import _toolkit, toolkit  # noqa: F401 - fixtures
