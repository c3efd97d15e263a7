"""Decoders of tokenizers: those of published models are let in, and none whose work is more than the response's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import aspo_megatron
from aspo_megatron.data.decoding import decode, encode, refusal
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.errors import CheckpointError, UserError

from .folders import TINY, change_json, copy_of_tiny, the_line

Step = dict[str, Any]
Change = Callable[[Path], object]

OLD: Step = json.loads((TINY / "tokenizer.json").read_text())["decoder"]
FUSE: Step = {"type": "Fuse"}


def replace(pattern: str, content: str, kind: str = "String") -> Step:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def strip(start: int, stop: int) -> Step:
    return {"type": "Strip", "content": " ", "start": start, "stop": stop}


def byte_level(*flags: bool) -> Step:
    return {"type": "ByteLevel", **dict(zip(("add_prefix_space", "trim_offsets", "use_regex"), flags, strict=True))}


def sequence(*steps: Step) -> Step:
    return {"type": "Sequence", "decoders": list(steps)}


def nested(depth: int, step: Step) -> Step:
    for _ in range(depth):
        step = sequence(step)
    return step


METASPACE: Step = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
PUBLISHED: dict[str, Step | None] = {
    "Qwen2, 2.5, 3": byte_level(False, False, False),
    "Llama 3, DeepSeek V3, GPT-2, Phi 4": byte_level(True, True, True),
    "DeepSeek V2, Mistral Nemo": byte_level(True, False, True),
    "Llama 2, Mistral, Phi 3": sequence(replace("\u2581", " "), {"type": "ByteFallback"}, FUSE, strip(1, 0)),
    "Gemma, Yi": sequence(replace("\u2581", " "), {"type": "ByteFallback"}, FUSE),
    "of GGUF": sequence({"type": "ByteFallback"}, FUSE, replace("\u2581", " "), strip(1, 0)),
    "T5": METASPACE,
    "TIPS": sequence(METASPACE, {"type": "ByteFallback"}, FUSE),
    "BERT": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "GPT": {"type": "BPEDecoder", "suffix": "</w>"},
    "wav2vec": {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
    "newlines of their own": sequence(replace("<n>", "\n"), replace("\u2581", " "), FUSE),
    "without one": None,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_decoders_of_published_models_are_let_in(tmp_path: Path, name: str) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    change_json(folder / "tokenizer.json", decoder=PUBLISHED[name])
    tokenizer = load_tokenizer(folder)
    ids = tokenizer("1 + 1 =")["input_ids"]
    assert decode(tokenizer, ids) == tokenizer.decode(ids)
    assert decode(tokenizer, []) == ""


CLASSES = (
    "LlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "CohereTokenizer",
    "CodeGenTokenizer", "CodeLlamaTokenizer", "BertTokenizer", "T5Tokenizer", "Siglip2Tokenizer",
)  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_decoders_that_transformers_makes_by_itself_are_let_in(name: str) -> None:
    assert refusal(getattr(transformers, name)()) is None


BACKTRACKING = r"\A(?!<\|end\|>!)(?!1 \+)(([\s\S])+)+[^\s\S]"
REFUSED: dict[str, tuple[Step, str]] = {
    "a pattern that goes back": (sequence(OLD, FUSE, replace(BACKTRACKING, "x", "Regex")), "regular expression"),
    "a pattern alone": (replace("a", "b", "Regex"), "regular expression"),
    "a pattern deep inside": (nested(40, replace("a", "b", "Regex")), "regular expression"),
    "much of little, twice": (
        sequence(replace("[a-z]", "\U0001d538" * 15_000), replace("\U0001d538", "\U0001d539" * 15_000)),
        "a Replace with a text of 15,000 characters (content)",
    ),
    "doubled and doubled": (sequence(*[replace("a", "aa")] * 8), "256 times as long"),
    "doubled without end": (sequence(*[replace("a", "aa")] * 60), "60 steps"),
    "more between": (sequence(OLD, replace(" ", "\U0001d538")), "12 times as long"),
    "nothing": (replace("", "x"), "looks for an empty text (pattern)"),
    "a long text": (replace("a" * 1000, "x"), "a Replace with a text of 1,000 characters (pattern)"),
    "no suffix": ({"type": "BPEDecoder", "suffix": ""}, "a BPEDecoder that looks for an empty text (suffix)"),
    "no delimiter": (
        {"type": "CTC", "pad_token": "a", "word_delimiter_token": "", "cleanup": True}, "(word_delimiter_token)"
    ),
    "a long prefix": ({"type": "WordPiece", "prefix": "a" * 99, "cleanup": True}, "99 characters (prefix)"),
    "an end that is taken": (sequence(FUSE, strip(0, 1)), "a Strip that takes from the end"),
    "many steps": (sequence(*[FUSE] * 100_000), "100,000 steps"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_decoder_that_may_do_more_is_one_line(tmp_path: Path, name: str) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    step, words = REFUSED[name]
    change_json(folder / "tokenizer.json", decoder=step)
    with pytest.raises(CheckpointError) as raised:
        load_tokenizer(folder)
    the_line(raised.value, f"{folder}: the tokenizer cannot be used: its decoder", words)


def long_added(folder: Path) -> None:
    whole = json.loads((folder / "tokenizer.json").read_text())
    added = [*whole["added_tokens"], {**whole["added_tokens"][0], "id": 300, "content": "\x1b" + "a" * (1 << 20)}]
    change_json(folder / "tokenizer.json", added_tokens=added)


def long_in_vocabulary(folder: Path) -> None:
    whole = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = {**whole["model"]["vocab"], "b" * 513: 300}
    change_json(folder / "tokenizer.json", model={**whole["model"], "vocab": vocabulary})


OTHERS: dict[str, tuple[Change, list[str]]] = {
    "an added token": (long_added, ["the token '\\x1baaa", "1,048,577 characters", "512 are the most"]),
    "a token": (long_in_vocabulary, ["the token 'bbb", "513 characters"]),
    "a token of the settings": (
        lambda folder: change_json(folder / "tokenizer_config.json", eos_token="c" * 5000), ["5,000 characters"]
    ),
    "one in Python": (
        lambda folder: change_json(folder / "tokenizer_config.json", tokenizer_class="ByT5Tokenizer"),
        ["ByT5Tokenizer is none of the tokenizers library"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_tokens_of_pages_and_tokenizers_in_python_are_one_line(tmp_path: Path, name: str) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    change, words = OTHERS[name]
    change(folder)
    with pytest.raises(UserError) as raised:
        load_tokenizer(folder)
    the_line(raised.value, f"{folder}: the tokenizer cannot be used: ", *words)


@pytest.mark.thorough
def test_the_most_that_is_let_in_is_as_much_as_the_response() -> None:
    """The worst of each kind, 4,000 of the longest tokens. What takes for ever ends at pytest's time limit."""
    worst = {
        "a text that is nearly there": sequence(FUSE, *[replace("a" * 31 + "b", "c" * 32)] * 7),
        "much that is replaced": sequence(FUSE, replace("a", "bb"), replace("b", "cc"), *[replace("c", "c")] * 5),
        "each token": sequence(*[strip(10**6, 0)] * 8),
        "broken characters": sequence(byte_level(True, True, True)),
    }
    for name, step in worst.items():
        backend = Tokenizer(models.WordLevel({"a" * 512: 0}, unk_token=None))
        backend.decoder = Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), "decoder": step})).decoder
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
        assert refusal(tokenizer) is None, name
        text = decode(tokenizer, np.zeros(4000, dtype=np.int64))
        assert len(text) <= 4000 * 512 * 4, name


def failing() -> PreTrainedTokenizerFast:
    """One that fails in Rust, as it was not looked at."""
    backend = Tokenizer(models.WordLevel({" ": 0}, unk_token=" "))
    backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, name_or_path="models/\nx")


def test_what_fails_all_the_same_is_one_line_that_names_the_folder() -> None:
    with pytest.raises(CheckpointError) as raised:
        decode(failing(), [])
    the_line(raised.value, "models/\u240ax: the tokenizer fails: PanicException: index out", "in decoding 0 tokens")
    with pytest.raises(CheckpointError) as raised:
        decode(failing(), [-1])
    the_line(raised.value, "models/\u240ax: the tokenizer fails: OverflowError", "in decoding 1 tokens")
    with pytest.raises(CheckpointError) as raised:
        encode(failing(), "\ud800")
    the_line(raised.value, "models/\u240ax: the tokenizer fails: ", "in making tokens of 1 characters")


def test_who_asks_a_run_to_end_is_not_taken_for_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    tokenizer = failing()
    monkeypatch.setattr(tokenizer, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode(tokenizer, [0])


def test_responses_are_decoded_in_one_place() -> None:
    package = Path(aspo_megatron.__file__).parent
    calls = re.compile(r"tokenizer\.(batch_)?decode\(|(?<!load_)tokenizer\(")
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if calls.search(path.read_text())}
    assert found == {"data/decoding.py", "data/tokenizer.py", "data/tokenize_prompts.py"}
