"""docs/operating.md tells the settings as they are."""

import pytest

from tests.wiring.settings_table import PAGE, page
from worker.settings import Settings


def test_the_table_of_settings_is_the_one_of_the_code():
    """`python -m tests.wiring.settings_table` writes it anew."""
    assert PAGE.read_text() == page()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_says_what_it_is(name):
    field = Settings.model_fields[name]
    assert field.description or name in {
        "tenants", "providers", "actions", "notices", "source", "warnings",
    }  # fmt: skip
