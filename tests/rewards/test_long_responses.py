"""Megabytes of anything, in each place that looks for an answer: looked at once, within the time of one test."""

from __future__ import annotations

import pytest
from thorough import one_in

from aspo_megatron.rewards.mathematics.reading.formula import find_formula
from aspo_megatron.rewards.programs.fences import extract_code
from aspo_megatron.rewards.text import after_thinking, extract_answer

pytestmark = pytest.mark.timeout(120)

SIZE = 2_000_000
PIECES = {
    "letters": "a",
    "digits": "8",
    "spaces": " ",
    "lines": "\n",
    "tabs and lines": " \t\n",
    "dollars": "$",
    "boxes": r"\boxed{",
    "closed boxes": r"\boxed{3} ",
    "boxes with commas": r"\boxed{3}, ",
    "braces": "{",
    "closing braces": "}",
    "backslashes": "\\",
    "tags": "<answer>",
    "closing tags": "</answer>",
    "both tags": "<answer>1</answer>",
    "crossed tags": "</answer><answer>",
    "half tags": "<answer",
    "thoughts": "<think>",
    "ends of thoughts": "</think>",
    "hashes": "####",
    "hashes with numbers": "#### 8 ",
    "hashes with spaces": "####          ",
    "fences": "```\n",
    "marked fences": "```python\n",
    "blocks": "```python\n a\n```\n",
    "indented fences": "   ```python\n",
    "fences in a line": "```",
    "both kinds of fences": "~~~```",
    "texts without end": "```python\n'''\n",
    "fences in texts": "'''```\n",
    "escaped quotes": "\\'''",
    "mixed quotes": "'\"",
    "quotations": "> ",
    "commas": "1,",
    "points": "1.",
    "minuses": "-",
    "percents": "8% ",
    "other digits": "\uff18",
}


@pytest.mark.parametrize("name", one_in(9, PIECES, first=1))
def test_megabytes(name):
    piece = PIECES[name]
    response = piece * (SIZE // len(piece))
    for text in (response, response + "+", "#### " + response + "+", "<answer>" + response):
        assert len(after_thinking(text)) <= len(text)
        assert len(find_formula(text, 1000) or "") <= 4100
    assert len(extract_answer(response, "7")) <= SIZE
    assert len(extract_answer(response, None)) <= SIZE
    for text in (response, f"```python\n{response}\n```", f"```python\n'''\n{response}x```"):
        extract_code(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>1</answer> <answer>2", "1"),
        ("<answer>1<answer>2</answer>", "1<answer>2"),
        ("<answer>1</answer></answer>", "1"),
        ("</answer><answer>1</answer>", "1"),
        ("<answer>1</answer> 2</answer> 3", "1"),
        ("</answer>", "</answer>"),
        ("<answer>", "<answer>"),
        ("<answer></answer>", ""),
        ("</answer></answer><answer>a\nb</answer></answer>", "a\nb"),
        ("<answer>a</answer>b<answer>c</answer>d</answer>e<answer>", "c"),
    ],
)
def test_the_last_pair_of_tags(text, answer):
    assert extract_answer(text, "7") == answer
