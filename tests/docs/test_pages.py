"""The documentation's links lead somewhere; the commands, options and settings that it quotes exist."""

from __future__ import annotations

import ast
import functools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from aspo_megatron import losses
from aspo_megatron.cli.app import app
from aspo_megatron.config import RunConfig
from aspo_megatron.config.reference import key_names
from aspo_megatron.metrics.alarms import Alarms

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*/README.md"))]
INDEX = ROOT / "docs" / "index.md"

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_WITH_SETTINGS = ("train", "eval", "serve", "slurm", "plan", "doctor")
_OTHERS = re.compile(r"^(elsewhere|TRL|verl|slime|OpenRLHF)\b")
_SETTING = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)*)=")


def prose(page: Path) -> str:
    """The text without fenced blocks."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


@functools.cache
def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", _LINK.sub("", heading).lower()).strip().replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def spans(page: Path) -> list[str]:
    """Code inside lines of text."""
    return spans_of(prose(page))


def spans_of(text: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def without_others(text: str) -> str:
    """The text without the columns of tables that have other programs' keys."""
    lines: list[str] = []
    theirs: set[int] = set()
    for line in text.splitlines():
        cells = line.split(" | ") if line.startswith("| ") else []
        if not cells:
            theirs = set()
        elif not theirs:
            theirs = {number for number, cell in enumerate(cells) if _OTHERS.search(cell)} or {-1}
        lines.append(" | ".join(cell for number, cell in enumerate(cells) if number not in theirs) if cells else line)
    return "\n".join(lines)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `aspo` command that the page quotes."""
    text = page.read_text(encoding="utf-8")
    blocks = [body for language, body in _FENCED.findall(text) if language in ("", "bash", "sh")]
    indented = "\n".join(line[4:] for line in prose(page).splitlines() if line.startswith("    "))
    for block in [*blocks, indented]:
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("aspo "):
                yield shlex.split(line, comments=True)
    for span in spans(page):
        if span.startswith("aspo "):
            yield shlex.split(span)


@functools.cache
def all_settings() -> frozenset[str]:
    return frozenset(key_names())


def is_setting(key: str, loss: str | None) -> bool:
    """Whether the configuration has the key, or the section of it; `loss` may be one of the page's own."""
    if key in all_settings() or key.startswith("reward.components"):
        return True
    section, _, name = key.partition(".")
    known = loss is None or loss in losses.names()
    return section == "loss" and (not known or any(name in losses.get(one).model_fields for one in losses.names()))


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "", prose(page))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@every_page
def test_tests_that_are_named_exist(page: Path) -> None:
    for span in spans(page):
        if re.fullmatch(r"tests/[\w/]+(\.py)?", span):
            assert (ROOT / span).exists(), span


def test_all_that_is_not_trusted_has_a_test() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!---|from elsewhere)(.*) \|$", page.split("\n## ")[2], flags=re.MULTILINE)
    assert len(rows) > 15
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py`$", row), row


def test_the_index_has_every_page() -> None:
    linked = {link.partition("#")[0] for link in _LINK.findall(INDEX.read_text(encoding="utf-8"))}
    missing = {page.name for page in PAGES if page.parent == INDEX.parent} - {INDEX.name} - linked
    assert not missing, "add a line for each to docs/index.md"


def check_command(words: list[str]) -> None:
    """See that the command is there, with its options and its settings."""
    group = typer.main.get_command(app)
    command: Any = group
    rest = words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    assert command is not group or not rest or not rest[0].isalpha(), f"no such command: {' '.join(words)}"
    options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, f"{word}: {' '.join(words)}"
    if command.name not in _WITH_SETTINGS:
        return
    loss = next((word.partition("=")[2] for word in rest if word.startswith("loss.name=")), None)
    for word in rest:
        setting = _SETTING.match(word)
        assert setting is None or is_setting(setting[1], loss), f"{word}: no such setting"


def check_settings(text: str) -> None:
    """See that those named in full, such as `loss.kl_coef` or `loss.kl_coef=0`, are there."""
    files = (".py", ".md", ".json", ".yaml", ".jsonl", ".safetensors")
    for span in spans_of(text):
        found = re.match(r"([a-z]+(?:\.[a-z_0-9]+)+)(?=$|[=: ])", span)
        if not found or found[1].endswith(files) or ": unknown key;" in span:
            continue
        if found[1].partition(".")[0] in RunConfig.model_fields:
            assert is_setting(found[1], None), f"`{span}`: no such setting"


@every_page
def test_commands_exist(page: Path) -> None:
    for words in commands(page):
        check_command(words)


@every_page
def test_settings_exist(page: Path) -> None:
    """Other programs' keys, in columns of their own, are left out."""
    check_settings(without_others(prose(page)))


def helps() -> dict[str, str]:
    """What `--help` says of each command and its options, by its words."""
    found, waiting = {}, [("aspo", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {word}", one) for word, one in getattr(command, "commands", {}).items()]
        told = [getattr(parameter, "help", None) for parameter in command.params]
        found[name] = "\n".join(text for text in [command.help, command.epilog, *told] if text)
    return found


def commands_of_helps() -> Iterator[list[str]]:
    """The words of each `aspo` command that `--help` shows."""
    for text in helps().values():
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r" *aspo (?!is\b)", line):  # not a line of prose
                yield shlex.split(line.partition("  #")[0])
        for span in spans_of(text):
            if span.startswith("aspo "):
                yield shlex.split(span)


def test_what_the_commands_tell_of_exists() -> None:
    """Each `aspo ...` in a line of its own or quoted, and each setting, of each command's help."""
    shown = list(commands_of_helps())
    for words in shown:
        check_command(words)
    for text in helps().values():
        check_settings(text)
    assert len(shown) > 25


@every_page
def test_blocks_are_what_they_say(page: Path) -> None:
    """Python, YAML of a run, JSON, output; those without a language are commands, or what these print."""
    for language, body in _FENCED.findall(page.read_text(encoding="utf-8")):
        assert language in ("", "python", "yaml", "json", "text", "bash"), body
        if language == "python":
            ast.parse(f"{{{body}}}" if re.match(r'"[\w-]+": ', body) else body)  # or entries of a dictionary
        elif language == "yaml":
            values = yaml.safe_load(body)
            assert set(values) <= set(RunConfig.model_fields)
            if "output_dir" in values:
                RunConfig.model_validate(values)
        elif language == "json":
            json.loads(body)
        else:
            assert not is_code(body), f"say which language this is:\n{body}"


def is_code(text: str) -> bool:
    """Whether a block is Python, a part of a run's YAML, or JSON."""
    try:
        if not all(isinstance(node, ast.Expr | ast.AnnAssign) for node in ast.parse(text).body):
            return True
    except SyntaxError:
        pass
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return isinstance(values, dict) and set(values) <= set(RunConfig.model_fields)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("import torch\n", True),
        ("loss: {name: grpo}\n", True),
        ('{"seed": 1}\n', True),
        ("make test\n", False),
        ("aspo train run.yaml loss.name=grpo\n", False),
        ("step 1  reward 0.5\n", False),
        ("weights: 4.1\n", False),
    ],
)
def test_code_is_told_from_commands(text: str, code: bool) -> None:
    assert is_code(text) == code


def test_the_plan_that_the_guide_quotes_is_the_recipes() -> None:
    guide = (ROOT / "docs" / "from_laptop_to_cluster.md").read_text(encoding="utf-8")
    recipe = (ROOT / "examples" / "qwen3_30b_a3b" / "README.md").read_text(encoding="utf-8")
    (table,) = (body for _, body in _FENCED.findall(guide) if "memory of a rank" in body)
    for line in table.splitlines():
        assert line[:42].rstrip() in recipe.splitlines()


def runs_of_words(text: str, size: int = 3) -> set[tuple[str, ...]]:
    """Every `size` words in a row, numbers and `...` left out."""
    words = [word for word in re.findall(r"[\w.,()]+", text) if re.fullmatch(r"[^\d]*[a-z][^\d]*", word)]
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


@functools.cache
def texts_of_the_code() -> tuple[str, ...]:
    """Every text of the package, with a sign in the place of each value in it."""
    found = []
    for path in (ROOT / "aspo_megatron").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else " \x00 " for part in parts]
            found.append("".join(text for text in texts if isinstance(text, str)))
    return tuple(found)


def quoted_messages(heads: str) -> list[str]:
    """What stands as code in the first cells of troubleshooting's tables whose head begins so."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.findall(rf"^\| (?:{heads}).*\n\| ---.*\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    cells = [cell for table in tables for cell in re.findall(r"^\| (.*?) \|", table, flags=re.MULTILINE)]
    return [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]


def test_the_messages_that_troubleshooting_quotes_are_the_codes() -> None:
    """Of each line three words in a row are in a text of the package, values left out; of a short one its largest part.

    A path at the start of a line is what the message is about.
    """
    texts = texts_of_the_code()
    said: set[tuple[str, ...]] = set().union(*map(runs_of_words, texts))
    everything = "\n".join(texts)
    quoted = quoted_messages("line|what it says")
    assert len(quoted) > 70
    # Signs as they are shown; a setting; what the start of a line is called; and one that is put together of parts.
    for line in set(quoted) - {
        "\N{SYMBOL FOR ESCAPE}[2J",
        "\\u202e",
        "sync: tensor",
        "error:",
        "wandb: ...",
        "runs at FILE:LINE",
    }:
        if ": unknown key;" in line:
            continue
        if len(line.split()) > 5:
            assert runs_of_words(line) & said, line
        else:
            about = re.sub(r"^(\.\.\.|MODEL)[\w./]*: ", "", line)
            pieces = [piece.strip(" ;:,()") for piece in re.split(r"\.\.\.|FILE|LINE|SIG\w+|\d+", about)]
            assert max(pieces, key=len) in everything, line


def test_every_warning_of_a_run_that_cannot_learn_is_in_troubleshooting() -> None:
    said = set().union(*map(runs_of_words, quoted_messages("line")))
    config = RunConfig.model_validate(
        {"output_dir": "RUN", "model": {"path": "m"}, "data": {"train": {"kind": "files", "path": "p"}}}
    )
    figures = {"groups/all_agree": 1.0, "response_tokens/cut": 1.0, "reward/failed": 1.0}
    lines = []
    for reward in (0.0, 1.0):
        alarms = Alarms(config)
        lines += [line for step in (1, 2, 3) for line in alarms.after(step, {**figures, "reward/mean": reward})]
    assert len(lines) > 6
    for line in lines:
        assert runs_of_words(line.partition(": see ")[0]) & said, line
