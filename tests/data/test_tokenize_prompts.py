"""Chat templates and tokenizers of all kinds: the same prompts as in this process, and a line where there are none."""

from __future__ import annotations

import datetime
import json
import os
import signal
from pathlib import Path

import pytest
from children import own_children
from thorough import one_in
from transformers import PreTrainedTokenizerBase

from aspo_megatron.data import tokenize_prompts
from aspo_megatron.data.chat import Chat
from aspo_megatron.data.tokenize_prompts import PromptMaker
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.errors import ConfigError

DAY = datetime.date(2020, 2, 29)
TINY = Path(__file__).parents[2] / "examples" / "tiny" / "model"
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(TINY)


def made(tokenizer: PreTrainedTokenizerBase, texts: list[str], system: str | None = None, chat: bool = True):
    form = Chat(tokenizer.chat_template, DAY, system) if chat else None
    with PromptMaker(tokenizer, chat=form) as maker:
        return list(maker.ids(texts, [f"problem {number}" for number in range(len(texts))]))


TEXTS = ["1 + 1 =", "", "\u00e9\U0001f600\n\n", "x" * 3000, *(f"{number} + {number} =" for number in range(700))]


@pytest.mark.parametrize("system", [None, "Add."])
@pytest.mark.parametrize("at_once", [1, 256, 100_000])
def test_the_same_tokens_as_in_this_process(
    tokenizer: PreTrainedTokenizerBase, system: str | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize_prompts, "_AT_ONCE", at_once)
    texts = TEXTS if at_once > 1 else TEXTS[:20]
    tokenizer.chat_template = CHAT
    opening = [] if system is None else [{"role": "system", "content": system}]
    chats = [[*opening, {"role": "user", "content": text}] for text in texts]
    rendered = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    assert made(tokenizer, texts, system) == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert made(tokenizer, texts, chat=False) == tokenizer(texts)["input_ids"]
    assert made(tokenizer, []) == []


FAILING = {
    "a number and a text": ("{{ 1 + 'a' }}", "TypeError"),
    "division": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "a range": ("{% for a in range(10**9) %}x{% endfor %}", "OverflowError"),
    "itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "a text and a list": ("{{ messages[0].content + messages }}", "TypeError"),
    "memory": ("{{ 'a' * 10**10 }}", "MemoryError"),
    # Steps that ask for far too much before they have filled much: filling 1 GiB takes seconds on some machines.
    "memory in steps": (
        "{% set n = namespace(a='aa') %}{% for i in range(9) %}{% set n.a = n.a * 1000 %}{% endfor %}", "MemoryError"
    ),
    "a long prompt": ("{{ 'a' * 10**8 }}", "makes 100,000,000 characters of"),
    "a digit too many": ("{{ (10 ** 5000) | string }}", "ValueError"),
    "no syntax": ("{% for %}", "TemplateSyntaxError"),
    "no end": ("{% if true %}", "TemplateSyntaxError"),
    "an unknown filter": ("{{ 1 | no_such }}", "no_such"),
    "an unknown test": ("{{ 1 is no_such }}", "no_such"),
    "an undefined name": ("{{ a.b.c }}", "UndefinedError"),
    "an import": ("{% import 'os' as os %}", "loader"),
    "a file": ("{% include '/etc/passwd' %}", "loader"),
    "its own words": ("{{ raise_exception('No \\n \\x1b[31m system') }}", "TemplateError: No \u241b[31m system"),
    "a class": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "globals": ("{{ raise_exception.__globals__['os'].system('touch x') }}", "SecurityError"),
    "a format": ("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", "SecurityError"),
    "code": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError"),
    "a changed list": ("{{ messages.append(1) }}", "SecurityError"),
    "a function that is none": ("{{ open('/etc/passwd').read() }}", "UndefinedError"),
    "half a character": ("{{ messages[0].content }}{{ '\\ud800' }}", "TextEncodeInput"),
}  # fmt: skip


@pytest.mark.parametrize("name", one_in(3, FAILING))
def test_a_template_that_fails_is_one_line(
    tokenizer: PreTrainedTokenizerBase, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer.chat_template, word = FAILING[name]
    with pytest.raises(ConfigError) as raised:
        made(tokenizer, ["1 + 1 ="])
    (line,) = str(raised.value).splitlines()
    assert str(TINY) in line
    assert word in line
    assert "problem 0" in line
    assert line.isprintable()
    assert len(line) < 700
    assert list(tmp_path.iterdir()) == []
    assert own_children() == []


ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ 7 ** (7 ** 12) }}",
    "one prompt among many": "{% if '7 + 7' in messages[0].content %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    "{{ messages[0].content }}",
}  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_end_is_given_up(
    tokenizer: PreTrainedTokenizerBase, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize_prompts, "_SECONDS", 0.5)
    tokenizer.chat_template = ENDLESS[name]
    with pytest.raises(ConfigError) as raised:
        made(tokenizer, [f"{number} + {number} =" for number in range(20)])
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"data.format: the chat template of {TINY} fails: takes longer than")
    assert ("at problem 1 to problem 19" if name == "one prompt among many" else "at problem 0") in line
    assert own_children() == []


WHOLE = json.loads((TINY / "tokenizer.json").read_text())
DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
TOKENIZERS = {
    "a pattern that goes back": ("pre_tokenizer", {
        "type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False
    }, "PanicException"),
    "a text that doubles": ("normalizer", {"type": "Sequence", "normalizers": [DOUBLED] * 60}, ""),
}  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_fails_is_one_line(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    part, content, word = TOKENIZERS[name]
    for file in TINY.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**WHOLE, part: content}))
    tokenizer = load_tokenizer(tmp_path)
    capfd.readouterr()
    with pytest.raises(ConfigError) as raised:
        made(tokenizer, ["1 + 1 =", "a" * 40 + "!"], chat=False)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{tmp_path}: the tokenizer fails: {word}")
    assert "at problem 1" in line
    assert capfd.readouterr() == ("", "")


def test_what_ends_the_process_is_one_line(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    with PromptMaker(tokenizer) as maker:
        (child,) = own_children()
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ConfigError, match=r"the tokenizer fails: its process ended by SIGKILL, .*at problem 0"):
            list(maker.ids(["a"], ["problem 0"]))
    assert own_children() == []
