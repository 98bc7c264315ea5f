"""Which rows one keyring is for: those of the tenants that use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, true


@dataclass(frozen=True, slots=True)
class Whose:
    """`only` these tenants, or all `but` those."""

    only: frozenset[str] | None = None  # None: all
    but: frozenset[str] = frozenset()

    def of(self, tenant: Any) -> ColumnElement[bool]:
        """As a condition on a column that names the tenant."""
        if self.only is not None:
            found: ColumnElement[bool] = tenant.in_(sorted(self.only))
            return found
        return tenant.not_in(sorted(self.but)) if self.but else true()


EVERYBODY = Whose()
