"""Model folders from elsewhere, through the commands: one line, exit code 2, no process left, nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from thorough import some_of

from aspo_megatron.checkpoint.hf.folder import hf_shapes
from aspo_megatron.data import tokenize_prompts

from .command import SETTINGS, TINY_MODEL, aspo
from .test_bad_input import call_main

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ALL = ("train", "eval", "convert", "check", "plan")
WEIGHTS = ("train", "eval", "convert", "check")
TOKENIZER = ("train", "eval")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights."""
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path_factory.mktemp("whole") / "model"))
    tensors = {name: torch.zeros(shape) for name, shape in hf_shapes(folder).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


Spoil = Callable[[Path], object]


def config(**fields: object) -> Spoil:
    return change("config.json", **fields)


def change(name: str, **fields: object) -> Spoil:
    def write(folder: Path) -> None:
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **fields}))

    return write


def content(name: str, text: str) -> Spoil:
    return lambda folder: (folder / name).write_text(text)


def linked(name: str) -> Spoil:
    """A link to a file of the user's."""
    return lambda folder: (folder / name).symlink_to(folder.parent / "home" / "id_rsa")


def elsewhere(folder: Path) -> None:
    weights = dict.fromkeys(hf_shapes(folder), "../home/other.safetensors")
    shutil.move(folder / "model.safetensors", folder.parent / "home" / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def decoder(*steps: object) -> Spoil:
    """One that does these steps after its own."""

    def write(folder: Path) -> None:
        own = json.loads((folder / "tokenizer.json").read_text())["decoder"]
        change("tokenizer.json", decoder={"type": "Sequence", "decoders": [own, *steps]})(folder)

    return write


def replace(kind: str, pattern: str, content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


BACKTRACKING = r"\A(?!<\|end\|>!)(?!1 \+)(([\s\S])+)+[^\s\S]"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
CASES: dict[str, tuple[Spoil, tuple[str, ...], list[str]]] = {
    "10^9 layers": (config(num_hidden_layers=10**9), ALL, ["config.json", "num_hidden_layers", "1000000000"]),
    "hidden size a text": (config(hidden_size="64"), ALL, ["config.json", "hidden_size"]),
    "a kernel": (config(_attn_implementation="a/b"), ALL, ["config.json", "_attn_implementation", "'a/b'"]),
    "its own code": (config(auto_map={"AutoConfig": "own.Own"}), ALL, ["config.json", "code of its own"]),
    "Python": (content("own.py", "open('ran', 'w')"), ALL, ["own.py: code"]),
    "a link": (linked("merges.txt"), ALL, ["merges.txt: a link out of the model folder", "id_rsa"]),
    "a pipe": (lambda folder: os.mkfifo(folder / "vocab.json"), ALL, ["vocab.json: not a regular file"]),
    "nested": (content("config.json", "[" * 100_000), ALL, ["config.json", "nested too deeply"]),
    "fewer weights": (config(num_hidden_layers=10_000), WEIGHTS, ["layers.2.", "492,816,512 parameters"]),
    "weights elsewhere": (elsewhere, WEIGHTS, ["index.json", "'../home/other.safetensors'"]),
    "cache": (
        config(use_cache="yes"),
        ("train", "eval", "check"),
        ["config.json: transformers refuses it", "use_cache"],
    ),
    "tokenizer {}": (content("tokenizer.json", "{}"), TOKENIZER, ["model: the tokenizer cannot be read", "KeyError"]),
    "a decoder without end": (
        decoder({"type": "Fuse"}, replace("Regex", BACKTRACKING, "x")),
        TOKENIZER,
        ["model: the tokenizer cannot be used: its decoder has a Replace with a regular expression"],
    ),
    "a decoder that floods": (
        decoder(replace("Regex", "[a-z][0-9A-Z]", "\U0001d538" * 15_000)),
        TOKENIZER,
        ["model: the tokenizer cannot be used: its decoder has a Replace with a regular expression"],
    ),
    "its own tokenizer": (
        change("tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}),
        TOKENIZER,
        ["tokenizer_config.json: tokenizer_class 'Own'"],
    ),
    "end token": (content("generation_config.json", '{"eos_token_id": "a"}'), TOKENIZER, ["generation_config.json"]),
    "a template without the question": (
        content("chat_template.jinja", "<user><assistant>"),
        TOKENIZER,
        ["data.format: the chat template of model drops the problem's text"],
    ),
    "templates with names": (
        change("tokenizer_config.json", chat_template=[{"name": "rag", "template": "{{ messages }}"}]),
        TOKENIZER,
        ["data.chat_template: default", "those there are: rag", "data.chat_template=rag"],
    ),
    "a template that fails": (content("chat_template.jinja", "{{ 1 / 0 }}"), TOKENIZER, ["ZeroDivisionError"]),
    "a template without end": (content("chat_template.jinja", LOOP), TOKENIZER, ["takes longer than"]),
}

AS_COMMANDS = [
    ("10^9 layers", "plan"),
    ("a link", "convert"),
    ("a template without end", "train"),
    ("a decoder without end", "eval"),
]
"""Cases that are run as a user runs them; the others call what the command calls."""


def argv_of(command: str) -> list[str]:
    chat = ["data.format=chat", "data.template={prompt}"]
    return {
        "train": ["train", "small.yaml", "output_dir=run", "model.path=model", "model.init=pretrained", *chat],
        "eval": ["eval", "model", "--problems", "problems.jsonl", "reward.kind=math", *chat],
        "convert": ["convert", "hf-to-megatron", "model", "out"],
        "check": ["check", "model", "--layouts", "tp=2"],
        "plan": ["plan", "small.yaml", "output_dir=run", "model.path=model"],
    }[command]


COMMANDS = [(name, command) for name in CASES for command in CASES[name][1]]


@pytest.mark.parametrize(("name", "command"), some_of(COMMANDS, [*COMMANDS[::2], *AS_COMMANDS[2:]]))
def test_a_bad_model_folder(
    tmp_path: Path,
    whole: Path,
    name: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tokenize_prompts, "_SECONDS", 0.5)
    (tmp_path / "small.yaml").write_text(SETTINGS)
    (tmp_path / "problems.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_text("SECRET")
    spoil, _, words = CASES[name]
    spoil(Path(shutil.copytree(whole, tmp_path / "model")))
    there = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    argv, processes = argv_of(command), psutil.Process().children()
    done = aspo(*argv, folder=tmp_path) if (name, command) in AS_COMMANDS else call_main(argv, monkeypatch, capfd)
    assert done.code == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert line.isprintable()
    assert done.stdout == "" or command == "check"  # which has begun its table
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == there
    assert psutil.Process().children() == processes


def test_random_weights_that_no_machine_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SETTINGS)
    config(hidden_size=1 << 19, num_hidden_layers=1000)(Path(shutil.copytree(TINY_MODEL, tmp_path / "model")))
    done = call_main(["train", "small.yaml", "output_dir=run", "model.path=model"], monkeypatch, capfd)
    assert done.code == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: model/config.json: asks for")
    assert "GiB here, and the machine has" in line
    assert not (tmp_path / "run").exists()
