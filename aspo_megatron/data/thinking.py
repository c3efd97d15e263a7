"""Whether prompts have the model think before it answers, as far as the prompts themselves say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from aspo_megatron.data.chat import Chat, Renderer, chat_of
from aspo_megatron.data.isolated_process import Isolated, IsolatedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from aspo_megatron.config import DataConfig

Thinking = Literal["on", "off", "none"]

_SWITCHES = ("enable_thinking", "thinking")
"""Variables of chat templates that switch it: Qwen3's and most others'; DeepSeek-V3.1's and Granite's."""
_SOFT = re.compile(r"(?<!\S)/(no_)?think(?!\S)")
"""Qwen3's switches within messages, of which the last counts (arXiv 2505.09388, section 4.3)."""
_QUESTION = "1 + 1 ="
_SECONDS = 4.0


def thinking_of(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Thinking | None:
    """What prompts made as configured ask for.

    A prompt that ends in `<think>` has it on, one that ends in `</think>` off, whether by the chat template or by
    `data.template`. Otherwise it is what the template's switch says: the prompt is compared with the ones that the
    switch makes when true and when false. Qwen3's template marks no prompt with thinking on.

    Args:
        config: how prompts are made.
        tokenizer: with the chat template.

    Returns:
        `none` if the template has neither a switch nor a block of thoughts, or there is no template; None if the
        prompt is neither of the switch's, or the template fails.
    """
    chat = chat_of(config, tokenizer)
    text = config.template.replace("{prompt}", _QUESTION)
    if chat is None:
        return _of_end(text) or "none"
    try:
        with Isolated(_Work(chat, tokenizer.special_tokens_map)) as work:
            asked, *switched = work(text, _SECONDS)
    except IsolatedError:
        return None
    return _of_end(asked) or _of_switch(asked, switched, f"{config.system or ''}\n{config.template}")


@dataclass(frozen=True)
class _Work:
    """What the process does: a template is a program of somebody else."""

    chat: Chat
    special_tokens: Mapping[str, Any]

    def __call__(self, text: str) -> list[str]:
        """The prompt as configured, then with each switch true and false."""
        prompts = [self._prompt({}, text)]
        for name in _SWITCHES:
            for value in (True, False):
                try:
                    prompts.append(self._prompt({name: value}, text))
                except Exception:  # it takes the name for something else
                    prompts.append(prompts[0])
        return prompts

    def _prompt(self, variables: Mapping[str, Any], text: str) -> str:
        renderer = Renderer(replace(self.chat, variables={**self.chat.variables, **variables}), self.special_tokens)
        renderer.begin()
        texts, _ = renderer.render([((), text)])
        return texts[0]


def _of_end(prompt: str) -> Thinking | None:
    end = prompt.rstrip()
    if end.endswith("</think>"):
        return "off"
    return "on" if end.endswith("<think>") else None


def _of_switch(asked: str, switched: list[str], around: str) -> Thinking | None:
    """`around`: what is said besides the problem, where a soft switch may be."""
    for on, off in zip(switched[0::2], switched[1::2], strict=True):
        if on == off:
            continue
        if asked == off:
            return "off"
        soft = [match[1] for match in _SOFT.finditer(around)]
        if asked == on:
            return "off" if soft and soft[-1] else "on"
        return None
    return "none"
