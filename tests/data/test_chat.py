"""Prompts by the chat templates that people have: variables, dates, names, parts; and what templates leave out."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from aspo_megatron.config import DataConfig
from aspo_megatron.data import prompts as prompts_module
from aspo_megatron.data.chat import Chat
from aspo_megatron.data.prompts import load_problems
from aspo_megatron.data.records import Gathering
from aspo_megatron.data.tokenize_prompts import PromptMaker
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.errors import ConfigError

TINY = Path(__file__).parents[2] / "examples" / "tiny" / "model"
PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %}"
    "{% endfor %}<assistant>"
)
PARTS_BUT_SYSTEM = PARTS.replace(
    "{% for c", "{% if m.role == 'system' %}{{ m.content | trim }}{% else %}{% for c"
).replace("{% endfor %}{% endfor %}", "{% endfor %}{% endif %}{% endfor %}")
THINKING = PLAIN + "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
DAY = datetime.date(2020, 2, 29)


def with_template(folder: Path, template: str | list[dict[str, str]] | None, **files: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder that is the tiny model's but for the template, and parts of tokenizer.json."""
    model = Path(shutil.copytree(TINY, folder / "model", dirs_exist_ok=True))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    whole = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps({**whole, **files}))
    return load_tokenizer(model)


def prompts(folder: Path, tokenizer: PreTrainedTokenizerBase, *questions: str, **options: Any) -> list[str]:
    lines = [json.dumps({"prompt": question, "answer": "1"}) for question in questions or ("1 + 1 =", "2 + 2 =")]
    (folder / "p.jsonl").write_text("\n".join(lines))
    train = {"kind": "jsonl", "path": str(folder / "p.jsonl")}
    config = DataConfig.model_validate({"train": train} | options)
    found, _ = load_problems(config, tokenizer, 256, 16)
    return [tokenizer.decode(problem.prompt_ids) for problem in found]


def line(folder: Path, tokenizer: PreTrainedTokenizerBase, *questions: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        prompts(folder, tokenizer, *questions, **options)
    (found,) = str(raised.value).splitlines()
    return found


def test_variables_reach_the_template(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, THINKING)
    given = {"chat_template_kwargs": {"enable_thinking": False}}
    assert prompts(tmp_path, tokenizer)[0] == "<user>1 + 1 =<assistant>"
    assert prompts(tmp_path, tokenizer, **given)[0] == "<user>1 + 1 =<assistant><think></think>"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"enable_thinkng": False}, "reads no variable enable_thinkng; those it reads: enable_thinking"),
        ({"enable_thinking": True, "\x1b[31m": 1}, "reads no variable \u241b[31m; those it reads: enable_thinking"),
        ({"m": 1}, "reads no variable m;"),
        ({"tools": []}, "data.chat_template_kwargs.tools: "),
        ({"add_generation_prompt": False}, "data.chat_template_kwargs.add_generation_prompt: "),
        ({"tokenize": True}, "data.chat_template_kwargs.tokenize: "),
        ({"messages": []}, "data.chat_template_kwargs.messages: "),
        ({"conversation": []}, "data.chat_template_kwargs.conversation: "),
        ({"chat_template": "x"}, "set data.chat_template"),
        ({"strftime_now": "x"}, "set data.date"),
    ],
)
def test_variables_that_cannot_be_given(tmp_path: Path, variables: dict[str, Any], words: str) -> None:
    assert words in line(tmp_path, with_template(tmp_path, THINKING), chat_template_kwargs=variables)


def test_keys_of_chats_need_a_chat(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, THINKING)
    for key, value in {"chat_template_kwargs": {"enable_thinking": False}, "chat_template": "default"}.items():
        assert line(tmp_path, tokenizer, format="raw", **{key: value}).startswith(f"data.{key} needs data.format: chat")
    assert "it reads none" in line(tmp_path, with_template(tmp_path, PLAIN), chat_template_kwargs={"a": 1})


LLAMA = (
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y %H:%M') %}{%- endif %}"
    "{{ date_string }}" + PLAIN
)


def test_the_date_is_the_configuration_s_and_not_the_clock_s(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = with_template(tmp_path, LLAMA)
    assert prompts(tmp_path, tokenizer)[1] == "26 Jul 2024 00:00<user>2 + 2 =<assistant>"
    assert [record.getMessage() for record in caplog.records] == [
        f"data.date: the chat template of {tmp_path / 'model'} asks for the date, and is told 2024-07-26"
    ]
    assert prompts(tmp_path, tokenizer, date="2020-02-29")[0].startswith("29 Feb 2020 00:00<")
    caplog.clear()
    given = {"chat_template_kwargs": {"date_string": "today"}}
    assert prompts(tmp_path, tokenizer, **given)[0].startswith("today<")
    assert not caplog.records
    within = "{% macro day() %}{{ strftime_now('%Y') }}{% endmacro %}{{ day() }}" + PLAIN
    assert prompts(tmp_path, with_template(tmp_path, within))[0].startswith("2024<")


def test_a_template_that_draws_is_the_same_each_time(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, "{{ range(10**4) | random }}" + PLAIN)
    once, again = prompts(tmp_path, tokenizer), prompts(tmp_path, tokenizer, "2 + 2 =")
    assert once[1:] == again


@pytest.mark.parametrize("template", [PARTS, PARTS_BUT_SYSTEM])
def test_a_template_that_reads_parts_is_given_parts(tmp_path: Path, template: str) -> None:
    tokenizer = with_template(tmp_path, template)
    assert prompts(tmp_path, tokenizer)[0] == "<user>1 + 1 =<assistant>"
    assert prompts(tmp_path, tokenizer, system="Add.")[0] == "<system>Add.<user>1 + 1 =<assistant>"


def test_a_template_that_fails_at_texts_is_given_parts(tmp_path: Path) -> None:
    first = "{% for m in messages %}{{ '<' + m.role + '>' + m.content[0].text }}{% endfor %}<assistant>"
    tokenizer = with_template(tmp_path, first)
    assert prompts(tmp_path, tokenizer)[0] == "<user>1 + 1 =<assistant>"
    assert prompts(tmp_path, tokenizer, system="Add.")[0] == "<system>Add.<user>1 + 1 =<assistant>"


def test_chats_that_a_template_refuses_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raises = "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer = with_template(tmp_path, PLAIN.replace("<{{ m.role }}>", raises + "<{{ m.role }}>"))
    asked = {"role": "user", "content": "2 + 2 ="}
    brings_its_own = [{"role": role, "content": "Be brief."} for role in ("developer", "system")]
    rows = [{"prompt": "1 + 1 ="}, *({"prompt": [turn, asked | {"content": turn["role"]}]} for turn in brings_its_own)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train = {"kind": "files", "path": str(tmp_path / "c.jsonl"), "answer_field": None}
    words = (
        "data.train: 2 of 3 problems cannot be used (refused by the chat template: 2); the first: problem c-1: the "
        "chat template refuses it: System role not supported. "
    )
    assert line(tmp_path, tokenizer, train=train).startswith(words)
    assert prompts(tmp_path, tokenizer, train=train, on_bad="drop") == ["<user>1 + 1 =<assistant>"]
    assert words in caplog.text
    assert "fails: TemplateError: System role not supported" in line(tmp_path, tokenizer, system="Be brief.")
    tokenizer = with_template(tmp_path, PLAIN)
    assert prompts(tmp_path, tokenizer, train=train)[1] == "<system>Be brief.<user>developer<assistant>"


DROPPING = {
    "nothing said": ("<user><assistant>", {}, "data.format: the chat template of {} drops the problem's text"),
    "images alone": (
        PARTS.replace("'text'", "'image'"), {}, "data.format: the chat template of {} drops the problem's text"
    ),
    "the system message": (
        PLAIN.replace("in messages", "in messages if m.role == 'user'"), {"system": "Add."},
        "data.system: the chat template of {} drops the system message",
    ),
    "the problem after a system message": (
        PLAIN.replace("in messages", "in messages[:1]"), {"system": "Add."},
        "data.format: the chat template of {} drops the problem's text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DROPPING)
def test_a_template_that_drops_what_is_said_is_refused(tmp_path: Path, name: str) -> None:
    template, options, words = DROPPING[name]
    tokenizer = with_template(tmp_path, template)
    assert line(tmp_path, tokenizer, **options).startswith(words.format(tmp_path / "model"))


@pytest.mark.parametrize("change", ["trim", "escape", "upper", "tojson", "replace('\n', ' ') | trim", "wordwrap(5)"])
def test_a_text_in_another_form_is_not_dropped(tmp_path: Path, change: str) -> None:
    tokenizer = with_template(tmp_path, PLAIN.replace("m.content", f"m.content | {change}"))
    assert len(prompts(tmp_path, tokenizer, ' Is "x" < 2\n or not?\n', " + < \n -", "\u00e9 &\t\u4e00")) == 3


def test_problems_that_a_template_cuts_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = with_template(tmp_path, PLAIN.replace("m.content", "m.content.split('</think>')[-1]"))
    asked = ["1 + 1 =", "What is meant by </think>?", "2 + 2 ="]
    words = (
        "data.train: 1 of 3 problems cannot be used (dropped by the chat template: 1); the first: problem p-1: the "
        "chat template drops the problem's text"
    )
    assert line(tmp_path, tokenizer, *asked).startswith(words)
    assert len(prompts(tmp_path, tokenizer, *asked, on_bad="drop")) == 2
    assert words in caplog.text


def test_long_prompts_are_all_counted_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = with_template(tmp_path, PLAIN)
    asked = [f"{number} + 1 =" + "." * (50 * (number % 3 == 2)) for number in range(9)]
    words = "data.train: 3 of 9 problems cannot be used (prompt too long: 3); the first: problem p-2: its prompt has "
    found = line(tmp_path, tokenizer, *asked, max_prompt_tokens=40)
    assert found.startswith(words)
    assert found.endswith("data.on_bad=drop")
    assert len(prompts(tmp_path, tokenizer, *asked, max_prompt_tokens=40, on_bad="drop")) == 6
    assert words in caplog.text
    assert "9 of 9" in line(tmp_path, tokenizer, *asked, max_prompt_tokens=5, on_bad="drop")
    halves = {"heldout_fraction": 0.4, "max_prompt_tokens": 5}
    assert line(tmp_path, tokenizer, *asked, **halves).startswith("data.train: 5 of 5")


NAMED = [{"name": "rag", "template": "R" + PLAIN}, {"name": "tool_use", "template": "T" + PLAIN}]


def test_named_templates(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, NAMED)
    there = "no chat template of this name; those there are: rag, tool_use"
    found = line(tmp_path, tokenizer)
    assert found.startswith("data.chat_template: default: ")
    assert there in found
    assert found.endswith("data.chat_template=rag")
    assert there in line(tmp_path, tokenizer, chat_template="ragg")
    assert prompts(tmp_path, tokenizer, chat_template="rag")[0] == "R<user>1 + 1 =<assistant>"
    tokenizer = with_template(tmp_path, [*NAMED, {"name": "default", "template": PLAIN}])
    assert prompts(tmp_path, tokenizer)[0] == "<user>1 + 1 =<assistant>"
    assert prompts(tmp_path, tokenizer, chat_template="tool_use")[0].startswith("T")
    tokenizer = with_template(tmp_path, PLAIN)
    assert "leave data.chat_template out" in line(tmp_path, tokenizer, chat_template="rag")


def _around(*pieces: str) -> dict[str, Any]:
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    token = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [sequence if piece == "A" else token for piece in pieces],
        "pair": [sequence, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
    }


def test_a_raw_prompt_does_not_end_as_the_tokenizer_ends_texts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = with_template(tmp_path, PLAIN, post_processor=_around("A", "E"))
    assert tokenizer.decode(tokenizer("1")["input_ids"]) == "1<|end|>"
    assert prompts(tmp_path, tokenizer, "1 + 1 =", "end<|end|>", format="raw") == ["1 + 1 =", "end<|end|>"]
    assert [record.getMessage() for record in caplog.records] == [
        f"data.format: raw: the tokenizer of {tmp_path / 'model'} puts <|end|> after a text; prompts go without it, as "
        "a response follows"
    ]
    assert prompts(tmp_path, tokenizer) == ["<user>1 + 1 =<assistant>", "<user>2 + 2 =<assistant>"]
    tokenizer = with_template(tmp_path, PLAIN, post_processor=_around("E", "A", "E", "E"))
    assert prompts(tmp_path, tokenizer, format="raw") == ["<|end|>1 + 1 =", "<|end|>2 + 2 ="]
    tokenizer = with_template(tmp_path, PLAIN, post_processor=_around("E", "A"))
    assert prompts(tmp_path, tokenizer, format="raw") == ["<|end|>1 + 1 =", "<|end|>2 + 2 ="]


TURNS = (
    {"role": "system", "content": "Add."},
    {"role": "user", "content": "1 + 1 ="},
    {"role": "assistant", "content": "<think>hmm</think>2"},
)


def of_turns(tokenizer: PreTrainedTokenizerBase, turns: tuple[dict[str, str], ...], **options: Any) -> tuple[str, str]:
    assert isinstance(tokenizer.chat_template, str)
    with PromptMaker(tokenizer, chat=Chat(tokenizer.chat_template, DAY, **options)) as maker:
        ((ids, wrong),) = maker.prompts([(turns, "2 + 2 =")], ["problem 0"])
    return tokenizer.decode(ids), wrong


def test_earlier_turns_are_kept(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, PLAIN)
    whole = "<system>Add.<user>1 + 1 =<assistant><think>hmm</think>2<user>2 + 2 =<assistant>"
    assert of_turns(tokenizer, TURNS) == (whole, "")
    assert of_turns(tokenizer, TURNS[1:], system="Add.") == (whole, "")
    tokenizer = with_template(tmp_path, PLAIN.replace("m.content", "m.content.split('</think>')[-1]"))
    assert of_turns(tokenizer, TURNS)[1] == ""  # as templates of models that think
    tokenizer = with_template(tmp_path, PLAIN.replace("in messages", "in messages if m.role != 'system'"))
    assert of_turns(tokenizer, TURNS)[1] == "drops the system message"
    tokenizer = with_template(tmp_path, PLAIN.replace("in messages", "in messages if m.role != 'assistant'"))
    assert of_turns(tokenizer, (*TURNS[:2], {"role": "assistant", "content": "two"}))[1] == "drops an earlier turn"
    tokenizer = with_template(tmp_path, PARTS_BUT_SYSTEM)
    assert of_turns(tokenizer, TURNS) == (whole, "")


class OneChat:
    """A source of one problem that has earlier turns."""

    def __init__(self, turns: tuple[dict[str, str], ...]) -> None:
        self.turns = turns

    def __call__(self, *given: Any, **options: Any) -> Any:
        gathering = Gathering()
        gathering.add("p.jsonl:1", "2 + 2 =", "4", {})
        records = gathering.records("p")
        record = dataclasses.replace(records[0], messages=self.turns)
        records._record = lambda number: record  # type: ignore[method-assign]
        return records


def test_earlier_turns_come_into_the_prompt_or_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts_module, "read_source", OneChat(TURNS))
    tokenizer = with_template(tmp_path, PLAIN)
    whole = "<system>Add.<user>1 + 1 =<assistant><think>hmm</think>2<user>{}<assistant>"
    assert prompts(tmp_path, tokenizer) == [whole.format("2 + 2 =")]
    assert prompts(tmp_path, tokenizer, template="Q: {prompt}") == [whole.format("Q: 2 + 2 =")]
    assert "problem p-0 has its own system message; leave data.system out" in line(tmp_path, tokenizer, system="Be.")
    assert "problem p-0 is a chat with earlier turns; set data.format: chat" in line(tmp_path, tokenizer, format="raw")
    monkeypatch.setattr(prompts_module, "read_source", OneChat(TURNS[1:]))
    assert prompts(tmp_path, tokenizer, system="Add.") == [whole.format("2 + 2 =")]


def test_a_chat_is_rendered_as_transformers_does(tmp_path: Path) -> None:
    template = "{{ eos_token }}{% generation %}{% endgeneration %}{{ flags | tojson }}{% break_it %}".replace(
        "{% break_it %}",
        "{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    )
    tokenizer = with_template(
        tmp_path, template + "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}"
    )
    flags = {"a": [1, 2.5, None, "\u00e9"], "b": {"c": True}}
    given, dropped = of_turns(tokenizer, TURNS, variables={"flags": flags})
    chat = [*TURNS, {"role": "user", "content": "2 + 2 ="}]
    expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, flags=flags)
    assert (given, dropped) == (expected, "")
