"""Whether prompts have the model think: by the ends that models' own templates write, and by their switches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config import DataConfig
from aspo_megatron.data import thinking
from aspo_megatron.data.tokenizer import load_tokenizer

TINY = Path(__file__).parents[2] / "examples" / "tiny" / "model"
MESSAGES = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PLAIN = MESSAGES + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
QWEN3 = MESSAGES + (
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
ALWAYS = PLAIN.replace("assistant\n", "assistant\n<think>\n")  # R1's since February 2025, Qwen3-Thinking-2507's
DEEPSEEK_V31 = MESSAGES + "<Assistant>{% if thinking %}<think>{% else %}</think>{% endif %}"
GRANITE = "{% if thinking %}Think before you answer.{% endif %}" + PLAIN
FOR_ITSELF = PLAIN + "{% if thinking is defined %}{{ thinking.budget.tokens }}{% endif %}"
LOOPING = PLAIN + "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "options", "expected"),
    [
        pytest.param(QWEN3, {}, "on", id="qwen3"),
        pytest.param(QWEN3, {"chat_template_kwargs": {"enable_thinking": True}}, "on", id="qwen3-true"),
        pytest.param(QWEN3, {"chat_template_kwargs": {"enable_thinking": None}}, "on", id="qwen3-null"),
        pytest.param(QWEN3, {"chat_template_kwargs": {"enable_thinking": False}}, "off", id="qwen3-false"),
        pytest.param(QWEN3, {"template": "{prompt} /no_think"}, "off", id="qwen3-no-think"),
        pytest.param(QWEN3, {"system": "/no_think", "template": "{prompt} /think"}, "on", id="qwen3-the-last-counts"),
        pytest.param(QWEN3, {"template": "{prompt} in /no_thinking/a"}, "on", id="qwen3-another-word"),
        pytest.param(ALWAYS, {}, "on", id="always"),
        pytest.param(PLAIN, {}, "none", id="plain"),
        pytest.param(PLAIN, {"template": "{prompt} /no_think"}, "none", id="plain-no-think"),
        pytest.param(DEEPSEEK_V31, {}, "off", id="deepseek-v3.1"),
        pytest.param(DEEPSEEK_V31, {"chat_template_kwargs": {"thinking": True}}, "on", id="deepseek-v3.1-true"),
        pytest.param(GRANITE, {}, "off", id="granite"),
        pytest.param(GRANITE, {"chat_template_kwargs": {"thinking": True}}, "on", id="granite-true"),
        pytest.param(FOR_ITSELF, {}, "none", id="the-name-for-something-else"),
        pytest.param(ALWAYS, {"format": "raw", "template": "{prompt}"}, "none", id="raw"),
        pytest.param(PLAIN, {"format": "raw", "template": "{prompt}\n<think>\n"}, "on", id="raw-opened"),
        pytest.param(PLAIN, {"format": "raw", "template": "{prompt}<think></think>"}, "off", id="raw-closed"),
    ],
)
def test_what_prompts_ask_for(template: str, options: dict[str, Any], expected: str) -> None:
    assert found(template, options) == expected


def test_a_template_without_end_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinking, "_SECONDS", 0.5)
    assert found(LOOPING, {}) is None


def found(template: str, options: dict[str, Any]) -> str | None:
    tokenizer = load_tokenizer(TINY)
    tokenizer.chat_template = template
    config = DataConfig.model_validate({"train": {"kind": "jsonl", "path": "p"}} | options)
    return thinking.thinking_of(config, tokenizer)
