"""Sampled responses for reading: which are chosen, how tokens are coloured, and that their text stays text."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import safe
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.plots.sample_file import read_samples, weight_summary
from aspo_megatron.plots.sample_page import samples_page
from aspo_megatron.plots.sample_view import print_samples
from aspo_megatron.plots.weight_classes import weight_class

HOSTILE = (
    "</div><script>alert(1)</script><img src=x onerror='x()'>&amp; \"q\" \x1b[2J\x1b]0;t\x07 \u202egnp.exe \ud800 [red]"
)


def record(**changes: Any) -> dict[str, Any]:
    return {
        "problem": "sum-1", "question": "What is 1 + 1?", "answer": "2", "response": "It is 2.", "reward": 1.0,
        "advantage": 0.75, "finish_reason": "stop",
    } | changes  # fmt: skip


def make_run(folder: Path, steps: dict[int, list[dict[str, Any]]]) -> Path:
    with Recorder(folder, tensorboard=False) as recorder:
        for step, records in steps.items():
            recorder.log_samples(step, records)
    return folder


def weighted(weights: list[float], **changes: Any) -> dict[str, Any]:
    tokens = [f" t{number}" for number in range(len(weights))]
    return record(tokens=tokens, weights=weights, response="".join(tokens)) | changes


def printed(folder: Path, color: Literal["truecolor", "standard"] | None = None, **choice: Any) -> str:
    file = io.StringIO()
    print_samples(
        read_samples(folder, **choice),
        Console(file=file, width=80, color_system=color, force_terminal=color is not None, no_color=False),
    )
    return file.getvalue()


# ---- reading -----------------------------------------------------------------------------------------------------


def test_the_last_that_match_are_chosen(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, {step: [record(problem=f"p{i}", response=f"{step}-{i}") for i in range(3)] for step in (1, 2, 3)}
    )
    assert [sample.response for sample in read_samples(run, count=2).samples] == ["3-1", "3-2"]
    assert [sample.response for sample in read_samples(run, step=2).samples] == ["2-0", "2-1", "2-2"]
    chosen = read_samples(run, problem="p1", count=2)
    assert [sample.response for sample in chosen.samples] == ["2-1", "3-1"]
    assert (chosen.matching, chosen.total) == (3, 9)
    assert [sample.response for sample in read_samples(run, step=1, problem="p0").samples] == ["1-0"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {3: [record()], 5: [record(problem="other")]})
    with pytest.raises(UserError, match="no response of step 4; there are steps 3 to 5"):
        read_samples(run, step=4)
    with pytest.raises(UserError, match="no response to problem 'x'; there are 'sum-1', 'other'"):
        read_samples(run, problem="x")
    with pytest.raises(UserError, match="no response to problem 'other' in step 3"):
        read_samples(run, step=3, problem="other")
    with pytest.raises(UserError, match=r"nowhere/samples\.jsonl: no such file; is this a run folder"):
        read_samples(tmp_path / "nowhere")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "samples.jsonl").write_text('{"step": 1')
    with pytest.raises(UserError, match="no response is recorded yet"):
        read_samples(tmp_path / "new")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: not a sampled response"),
        ('{"problem": "a", "reward": 1}', "line 1: not a sampled response: it has no 'response'"),
        ('{"problem": "a", "response": "b", "reward": "much"}', "line 1: not a sampled response: could not convert"),
        (json.dumps(record(tokens=["a"], weights=[1, 2])), "line 1: 1 `tokens` but 2 `weights`"),
        (json.dumps(record(tokens=["a"], weights=["x"])), "line 1: not a sampled response"),
        (json.dumps(record(tokens=["a"], weights=3)), "line 1: not a sampled response"),
        ("[" * 100_000, "line 1: not JSON"),
        ("\udcff", "line 1: not JSON"),
    ],
)
def test_lines_that_are_no_responses(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "samples.jsonl"
    content = json.dumps(record()) + "\n" + line + "\n"
    path.write_bytes(content.encode("utf-8", errors="surrogateescape"))
    told: list[str] = []
    assert read_samples(tmp_path, warn=told.append).total == 1
    assert told == [f"warning: {path}, line 2: damaged, not a response; left out"]
    path.write_bytes(f"{line}\n{line}\n".encode("utf-8", errors="surrogateescape"))
    with pytest.raises(UserError, match=message) as caught:
        read_samples(tmp_path, warn=told.append)
    assert "\n" not in str(caught.value)


def test_unfinished_last_line_and_responses_of_an_evaluation(tmp_path: Path) -> None:
    file = tmp_path / "step-000006.jsonl"
    evaluated = {
        "index": 0,
        "problem": "p",
        "question": "q",
        "answer": None,
        "response": "r",
        "reward": 0.0,
        "tokens": 7,
    }
    file.write_text(json.dumps(evaluated) + "\n" + '{"problem": "p2", ')
    (sample,) = read_samples(file).samples
    assert (sample.step, sample.advantage, sample.answer, sample.tokens) == (None, None, None, ())
    with pytest.raises(UserError, match="no response of step 6; its lines have no step"):
        read_samples(file, step=6)


def test_those_that_are_like_it_are_chosen(tmp_path: Path) -> None:
    kinds = [record(response="Yes, 2."), record(response="no", reward=0.5), record(reward=0.0, finish_reason="length")]
    run = make_run(tmp_path, {1: kinds})
    chosen = {kind: read_samples(run, only=kind).matching for kind in ("right", "wrong", "cut")}
    assert chosen == {"right": 1, "wrong": 2, "cut": 1}
    assert [sample.response for sample in read_samples(run, containing="YES").samples] == ["Yes, 2."]
    assert read_samples(run, containing="what is").matching == 3
    with pytest.raises(UserError, match="none of 3 responses is right and has 'no such' in it"):
        read_samples(run, only="right", containing="no such")


# ---- weights -----------------------------------------------------------------------------------------------------


def test_weight_classes() -> None:
    labels = [weight_class(weight).label for weight in (0.0, 0.1, 0.5, 0.7, 0.9, 0.92, 1.0, 1.09, 1.1, 1.4, 2.0, 3.0)]
    assert labels == [
        "0 dropped", "<0.5", "0.5-0.71", "0.5-0.71", "0.71-0.91", "0.91-1.1", "0.91-1.1", "0.91-1.1", "1.1-1.4",
        "1.4-2", ">=2", ">=2",
    ]  # fmt: skip
    assert weight_class(float("nan")).label == weight_class(float("inf")).label == "not finite"


def test_weight_summary(tmp_path: Path) -> None:
    make_run(tmp_path, {1: [weighted([0.0, 1.0, 3.0, 0.5, float("nan"), 1.5]), weighted([0.0])]})
    first, second = read_samples(tmp_path).samples
    assert weight_summary(first) == (
        "1 of 6 tokens dropped; the others' weights 0.50 to 3.00, mean 1.50; 1 not finite; "
        "hardest: ' t2' 3.00, ' t5' 1.50"
    )
    assert weight_summary(second) == "1 of 1 tokens dropped"


# ---- terminal ----------------------------------------------------------------------------------------------------


def test_terminal_without_colours_marks_tokens(tmp_path: Path) -> None:
    make_run(tmp_path, {4: [weighted([1.0, 3.0, 0.0, 0.5], advantage=-0.5, finish_reason="length", reward=0.0)]})
    text = printed(tmp_path)
    assert "step 4 | problem sum-1 | reward 0 | advantage -0.50 (pushed down) | finish length (cut)" in text
    assert "question: What is 1 + 1?" in text
    assert " t0[ t1|3][ t2|0][ t3|0.5]" in text
    assert "unmarked is 0.91-1.1" in text
    assert "\x1b" not in text
    assert "1 of 1 responses" in text


@pytest.mark.parametrize(
    ("system", "above", "below"),
    [("truecolor", "48;2;184;74;0", "48;2;107;181;222"), ("standard", "41m", "46m")],
)
def test_terminal_colours(tmp_path: Path, system: Literal["truecolor", "standard"], above: str, below: str) -> None:
    make_run(tmp_path, {1: [weighted([1.0, 3.0, 0.0, 0.5])]})
    text = printed(tmp_path, color=system)
    legend, response = text.split("response:")
    for codes, token in ((above, "t1"), (below, "t3")):
        assert re.search(rf"\x1b\[[0-9;]*{codes}[0-9;m]* {token}", response), (codes, response)
        assert codes in legend
    assert re.search(r"\x1b\[9;[0-9;]+m t2", response)  # struck out
    assert re.search(r"(^|m|\n) t0\x1b", response)


def test_tokens_without_text_and_newlines_are_seen(tmp_path: Path) -> None:
    make_run(tmp_path, {1: [record(tokens=["a", "\n", "", ""], weights=[1.0, 2.0, 1.0, 0.0])]})
    assert "a[\n|2]∅[∅|0]" in printed(tmp_path)
    html = samples_page("run", read_samples(tmp_path))
    assert re.findall(r'title="weight [^>]*>([^<]*)<', html) == ["a", "↵\n", "∅", "∅"]


def test_an_advantage_of_0_drops_no_token(tmp_path: Path) -> None:
    """Its weights are 0 as well."""
    make_run(tmp_path, {1: [weighted([0.0, 0.0], advantage=0.0), weighted([0.0, 1.0], advantage=0.5)]})
    neutral, pushed = printed(tmp_path).split("response:")[1:]
    assert " t0 t1\n(advantage 0: nothing pushes these tokens, and none is dropped)" in neutral
    assert "[ t0|0] t1\n(1 of 2 tokens dropped" in pushed
    html = samples_page("run", read_samples(tmp_path))
    assert html.count('title="weight ') == 2
    assert "advantage 0: nothing pushes these tokens" in html
    assert "by the policy after the step&#x27;s updates" in html


def test_terminal_says_when_there_are_no_weights(tmp_path: Path) -> None:
    make_run(tmp_path, {1: [record(advantage=7e-16), record(advantage=None)]})
    text = printed(tmp_path)
    assert "It is 2." in text
    assert "token weights are not recorded" in text
    assert "Weight of" not in text
    assert "| advantage +0.00 | finish stop" in text


# ---- what a model wrote stays text -------------------------------------------------------------------------------


def test_safe_text() -> None:
    assert safe("plain é 日本語 🎉\n\tnext") == "plain é 日本語 🎉\n\tnext"
    assert safe("\x1b[31m\x00\x7f\r") == "␛[31m␀␡␍"
    assert safe("\u202eabc\u2066\u200b\x9b") == "\\u202eabc\\u2066\\u200b\\u009b"
    assert safe("\ud800") == "\N{REPLACEMENT CHARACTER}"
    assert safe("👩\u200d🔬") == "👩\u200d🔬"
    assert safe(3.5) == "3.5"


def hostile_run(folder: Path) -> Path:
    tokens = {"tokens": [HOSTILE, HOSTILE, HOSTILE], "weights": [1.0, 3.0, 0.0]}
    fields = ("problem", "question", "answer", "prompt", "response", "finish_reason")
    return make_run(folder, {1: [dict.fromkeys(fields, HOSTILE) | {"reward": 0.0, "advantage": -1.0} | tokens]})


@pytest.mark.parametrize("color", [None, "truecolor"])
def test_terminal_is_safe_from_a_response(tmp_path: Path, color: Literal["truecolor"] | None) -> None:
    text = printed(hostile_run(tmp_path), color=color)
    assert not set(re.sub(r"\x1b\[[0-9;]*m", "", text)) & {"\x1b", "\x07", "\u202e", "\ud800"}
    assert "[red]" in text  # no markup of rich's
    text.encode()


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_escapes_everything(tmp_path: Path) -> None:
    html = samples_page(f"Responses of {HOSTILE}", read_samples(hostile_run(tmp_path)))
    html.encode()
    page = _Page()
    page.feed(html)
    assert page.tags == {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "b", "span", "main", "section",
        "article", "div", "details", "summary", "label", "input",
    }  # fmt: skip
    assert page.attributes == {
        "lang", "charset", "http-equiv", "content", "name", "class", "title", "type", "id", "checked",
    }  # fmt: skip
    assert page.text.count("<script>alert(1)</script>") >= 10
    assert not set(html) & {"\x1b", "\x07", "\u202e", "\ud800"}
    assert "default-src 'none'" in html


def test_responses_stand_by_problem(tmp_path: Path) -> None:
    """The best first, and what all rewards of a group say is neither best nor worst."""
    asked = record(prompt="<|user|> 1 + 1", reward=0.0, response="three")
    groups = {
        3: [asked, asked | {"reward": 1.0, "response": "two"}, asked | {"reward": 0.4, "response": "2 or 3"}],
        4: [asked, asked | {"problem": "other", "question": "?"}, asked],
    }
    html = samples_page("run", read_samples(make_run(tmp_path, groups), count=40))
    sections = html.split("<section>")[1:]
    assert [re.findall("<h2>(.*)</h2>", section) for section in sections] == [
        ["Step 3, problem sum-1"], ["Step 4, problem sum-1"], ["Step 4, problem other"],
    ]  # fmt: skip
    assert re.findall('<article class="(.*)">', sections[0]) == ["right best", "wrong", "wrong worst"]
    assert re.findall('<div class="text">(t.*|2.*)</div>\n</article>', sections[0]) == ["two", "2 or 3", "three"]
    assert re.findall('<article class="(.*)">', sections[1]) == ["wrong", "wrong"]
    assert all(section.count("<details>") == section.count("&lt;|user|&gt; 1 + 1") == 1 for section in sections)
    assert re.findall(r">\s(\w+ \(\d\))</label>", html) == [
        "all (6)",
        "right (1)",
        "wrong (5)",
        "best (1)",
        "worst (1)",
    ]
    for kind in ("right", "wrong", "cut", "best", "worst"):
        assert f"body:has(#show-{kind}:checked) article:not(.{kind})" in html


def test_page_has_a_class_for_each_token(tmp_path: Path) -> None:
    make_run(tmp_path, {2: [weighted([1.0, 3.0, 0.0, 0.5])]})
    html = samples_page("run", read_samples(tmp_path))
    spans = re.findall(r'<span class="(w\d)" title="weight ([\d.]+)"> (t\d)</span>', html)
    assert [(weight, token) for _, weight, token in spans] == [("1", "t0"), ("3", "t1"), ("0", "t2"), ("0.5", "t3")]
    styles = {name: re.search(rf"\.{name} {{ (.*?) }}", html) for name, *_ in spans}
    assert all(styles.values())
    assert [found[1] if (found := styles[name]) else "" for name, *_ in spans] == [
        "", "background: #b84a00; color: #ffffff", "color: #767676; text-decoration: line-through",
        "background: #6bb5de; color: #000000",
    ]  # fmt: skip
