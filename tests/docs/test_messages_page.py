"""The page of messages has every one that the code can end or warn with, and no other."""

from __future__ import annotations

import ast
from pathlib import Path

from tools import messages_page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    """`make docs` makes it anew."""
    assert messages_page.PAGE.read_text(encoding="utf-8") == messages_page.page()


def test_it_has_lines_of_every_room() -> None:
    text = (ROOT / "docs" / "messages.md").read_text(encoding="utf-8")
    for line in (
        "output_dir: ... is a file; choose a folder",
        "warning: stdout cannot be written (...); the command continues, but shows nothing there",
        "parallel.tp=... ...; possible values: ...",
        "reward.kind=...: no response of step ... was scored (...)",
    ):
        assert f"- `{line}`\n" in text
    assert text.count("\n- ") > 450


def test_how_lines_are_read() -> None:
    tree = ast.parse(
        """
class OwnError(ConfigError): ...
def f(a, b):
    what = f"the {a} is " + ("long" if b else "short")
    if b:
        raise OwnError(f"{one_line(a)}: {what}")
    tell(f"warning: {a} left out")
    raise OwnError(a)
    raise ValueError("of a programmer")
"""
    )
    called = messages_page.error_classes([ast.parse("class ConfigError(UserError): ..."), tree])
    assert called == {"UserError", "ConfigError", "OwnError"}
    assert list(messages_page.lines_of(tree, called)) == ["...: the ... is long", "warning: ... left out"]
