"""Text from elsewhere is text: for terminals, for a place in a line, for Markdown, in the records of loggers."""

from __future__ import annotations

import logging
import re

import pytest

from aspo_megatron.errors import CheckpointError, ConfigError, UserError
from aspo_megatron.foreign_text import markdown, one_line, plain_logger, printed, safe
from text.hostile import HOSTILE, KINDS, faults

NEWLINES = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029\t]")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_shown_as_text(kind: str) -> None:
    text = f"before{KINDS[kind]}after"
    for plain in (safe, one_line, printed):
        shown = plain(text)
        assert faults(shown, own=False) == []
        assert shown.startswith("before")
        assert shown.endswith("after")
        assert plain(shown) == shown
        shown.encode()
    assert not NEWLINES.search(one_line(f"{text}\n\t"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\nb\tc\n",
        "naïve Straße 中文 العربية हिन्दी",
        "👩\u200d👩\u200d👧 ✓",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "a_b-c.d [x] $y$ 100 %",
    ],
)
def test_plain_text_is_as_it_was(text: str) -> None:
    assert safe(text) == printed(text) == text
    assert one_line(text) == text.replace("\n", "␊").replace("\t", "␉")


def test_what_is_printed_keeps_its_lines_and_escapes() -> None:
    assert printed("a\r\nb\rc\ud800\n") == "a\nb␍c\\ud800\n"


MARKUP = {
    "a cell's end": "a | b",
    "an escaped end": "a \\| b \\\\| c",
    "a picture": "<img src=x onerror=alert(1)>",
    "a comment": "<!-- a -->",
    "an entity": "&lt;script&gt;",
    "code": "a `code` ``b``",
    "emphasis": "**a** *b* _c_ __d__ ~~e~~ ~f~",
    "a link": "[here](http://evil.example)",
    "a link by reference": "[here][1] and [1]: x",
    "a picture's link": "![alt](http://evil.example/x.png)",
    "an address": "see https://evil.example or www.evil.example or HTTP://evil.example, WWW.x",
    "somebody": "@somebody a@evil.example a@1.example",
    "an autolink": "<http://evil.example>",
    "a footnote": "[^1]",
    "mathematics": "$x$ $$y$$",
    "new lines": "a\n\n# b\n- c\r\n| d |",
    "a header": "a\n| --- |",
}


@pytest.mark.parametrize("kind", MARKUP)
def test_markdown_is_text(kind: str) -> None:
    shown = markdown(MARKUP[kind])
    assert not re.search(
        r"[|<>`*\\~$\n\r]|&(?!#\d+;)|://|www\.|\]\(|\]\[|\]:|\[\^|\B_|_\B|@[a-z1]", shown, re.IGNORECASE
    )
    decoded = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), shown)
    assert decoded == one_line(MARKUP[kind])


@pytest.mark.parametrize(
    "text",
    ["ASPO-Math-1.5B", "my_model", "AIME 2024, avg@64", "53.1 (40.2 to 66.0) [1]", "top_p 0.9, not 1.0", "pass@8"],
)
def test_names_are_as_they_were_in_markdown(text: str) -> None:
    assert markdown(text) == text


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_one_line(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = plain_logger("aspo_megatron.tests.plain")
    logger.warning("the first of %d: %s", 3, ValueError(f"no answer in {KINDS[kind]}\n"))
    (record,) = caplog.records
    assert faults(record.getMessage(), own=False) == []
    assert len(record.getMessage().splitlines()) == 1
    assert record.getMessage().startswith("the first of 3: no answer in ")


def test_tracebacks_of_records_and_percent_signs(caplog: pytest.LogCaptureFixture) -> None:
    logger = plain_logger("aspo_megatron.tests.plain")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("it has failed at %s", "50 % %s")
    logger.warning("100 %")
    assert "Traceback" in caplog.text
    assert faults(caplog.text, own=False) == []
    assert [record.getMessage() for record in caplog.records] == ["it has failed at 50 % %s", "100 %"]
    assert logging.getLogger("aspo_megatron.tests.plain") is logger


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [UserError, ConfigError, CheckpointError])
def test_a_line_of_a_user_s_error_is_one_line(kind: str, error: type[UserError]) -> None:
    said = str(error(f"model.path: {KINDS[kind]}\nerror: none", "a second line"))
    assert faults(said, own=False) == []
    assert len(said.splitlines()) == 2
    assert said.endswith("error: none\na second line")


def test_of_an_error_with_many_or_long_lines_the_beginning_is_shown() -> None:
    lines = str(ConfigError(*(f"k{number}: unknown key" for number in range(10_000)))).split("\n")
    assert len(lines) == 51
    assert lines[49:] == ["k49: unknown key", "and 9,950 more"]
    assert str(UserError("a" * 100_000)) == "a" * 5000 + "... (100,000 characters)"
    assert str(UserError("a\nb", "c")) == "a\N{SYMBOL FOR LINE FEED}b\nc"
