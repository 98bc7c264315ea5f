"""The examples of docs/using-tokens.md, run as they stand against a running Evergrant."""

import re
from pathlib import Path

import pytest

from tests.api.conftest import KEY

PAGE = Path(__file__).parents[2] / "docs" / "using-tokens.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
PRINTED = ["Ada", "Ada", "Bearer 0 True", "ask user because of invalid_grant"]


@pytest.mark.parametrize(("example", "printed"), [*zip(EXAMPLES, PRINTED, strict=True)])
def test_an_example_does_what_it_says(site, monkeypatch, capsys, example, printed):
    site.grants.add()
    site.grants.add(
        user_id="google-oauth2|105",
        identity_user_id="105",
        state="needs_reauth",
        reason="invalid_grant",
        access_token=None,
    )
    monkeypatch.setenv("EVERGRANT_URL", site.url)
    monkeypatch.setenv("EVERGRANT_API_KEY", KEY)
    example = example.replace("https://provider.example/me", site.me)
    exec(compile(example, PAGE.name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip() == printed
