"""A bad model folder is refused by every command that is given it, in the same words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint.hostile import sign
from safetensors.torch import load_file, save_file
from thorough import one_in
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron
from aspo_megatron.models.family import read_family

from .command import SETTINGS, TINY_MODEL, Finished
from .test_bad_input import call_main

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

EMBEDDING, HEAD, DOWN = "model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.down_proj.weight"
Spoil = Callable[[Path], object]

RUN = ["small.yaml", "output_dir=run", "model.path=model", "model.init=pretrained"]
COMMANDS: dict[str, list[str]] = {
    "train": ["train", *RUN],
    "eval": ["eval", "model", "--problems", "problems.jsonl", "reward.kind=math", "data.format=raw"],
    "convert": ["convert", "hf-to-megatron", "model", "out"],
    "check": ["check", "model", "--layouts", "tp=2"],
    "serve": ["serve", *RUN],
    "slurm": ["slurm", *RUN, "slurm.gpus_per_node=0"],
    "quantize": ["quantize", "model", "out", "output_dir=run", "--config", "small.yaml"],
    "doctor": ["doctor", *RUN],
    "plan": ["plan", *RUN],
    "train of random weights": ["train", *RUN, "model.init=random"],
}
SMALL_FILES = tuple(COMMANDS)
"""Those that refuse what the folder's small files say; the first nine also what is wrong with its weights."""
WEIGHTS = SMALL_FILES[:9]


def config(**fields: object) -> Spoil:
    def write(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return write


def weights(change: Callable[[dict[str, Tensor]], object]) -> Spoil:
    def write(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def in_two_files(folder: Path) -> None:
    """An output layer of its own, in the second of two files."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {"a.safetensors": tensors, "b.safetensors": {HEAD: tensors[EMBEDDING] + 1}}
    for name, content in files.items():
        save_file(content, folder / name, metadata={"format": "pt"})
    where = {tensor: name for name, content in files.items() for tensor in content}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def marked(name: str) -> Spoil:
    return lambda folder: (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())


def replaced(name: str, text: str) -> Spoil:
    return lambda folder: (folder / name).write_text(text)


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
TIES = "model: config.json ties the embeddings, but lm_head.weight is not model.embed_tokens.weight"
FOLDERS: dict[str, tuple[Spoil, tuple[str, ...], str]] = {
    "quantised": (config(quantization_config={"bits": 4}), SMALL_FILES, "model: its weights are quantised"),
    "attention that is scaled": (config(rope_parameters=YARN), SMALL_FILES, "config.json: rope type 'yarn' scales"),
    "an odd field": (config(use_cache="yes"), SMALL_FILES, "config.json: transformers refuses it"),
    "another architecture": (config(model_type="gpt2"), SMALL_FILES, "config.json: model_type 'gpt2' is not supported"),
    "no end token": (
        replaced("generation_config.json", '{"eos_token_id": "a"}'),
        SMALL_FILES,
        "generation_config.json: eos_token_id holds 'a'",
    ),
    "a tokenizer's file elsewhere": (
        replaced("tokenizer_config.json", '{"vocab_file": "/etc/hosts"}'),
        SMALL_FILES,
        "tokenizer_config.json: vocab_file names a file elsewhere",
    ),
    "a tokenizer with a mark": (marked("tokenizer.json"), SMALL_FILES, "tokenizer.json: begins with a byte order mark"),
    "a megatron checkpoint of others": (
        replaced(".metadata", ""),
        SMALL_FILES,
        "model is a megatron checkpoint, but not one that a run",
    ),
    "tied, with another head": (weights(lambda all: all.update({HEAD: all[EMBEDDING] + 1})), WEIGHTS, TIES),
    "tied, with a head of other precision": (
        weights(lambda all: all.update({HEAD: all[EMBEDDING].bfloat16()})),
        WEIGHTS,
        TIES,
    ),
    "tied, with a head of other size": (weights(lambda all: all.update({HEAD: torch.ones(3)})), WEIGHTS, TIES),
    "tied, with another head in a file of its own": (in_two_files, WEIGHTS, TIES),
    "not tied, without a head": (
        config(tie_word_embeddings=False),
        WEIGHTS,
        "lm_head.weight is missing from its safetensors files; if the model has no output layer but its embeddings, "
        "set tie_word_embeddings to true",
    ),
    "a bias that the model does not have": (
        weights(lambda all: all.update({"model.layers.0.self_attn.o_proj.bias": torch.ones(64)})),
        WEIGHTS,
        "tensor model.layers.0.self_attn.o_proj.bias is not one that a llama model has",
    ),
    "more layers than config.json says": (
        config(num_hidden_layers=1),
        WEIGHTS,
        "tensor model.layers.1.input_layernorm.weight is not one that a llama model has",
    ),
    "weights that are whole numbers": (
        weights(lambda all: all.update({DOWN: all[DOWN].int()})),
        WEIGHTS,
        "but weights are floating-point numbers",
    ),
    "a tensor less": (weights(lambda all: all.pop(DOWN)), WEIGHTS, f"tensor {DOWN} is missing"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with random weights; tied."""
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path_factory.mktemp("whole") / "model"))
    tensors = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).state_dict()
    del tensors[HEAD]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[list[str]], Finished]:
    """Runs a command in this process, in a folder with a configuration and problems."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SETTINGS)
    (tmp_path / "problems.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    return lambda argv: call_main(argv, monkeypatch, capfd)


@pytest.mark.parametrize(
    ("name", "command"),
    one_in(3, [(name, command) for name, (_, commands, _) in FOLDERS.items() for command in commands]),
)
def test_every_command_refuses(
    tmp_path: Path, whole: Path, call: Callable[[list[str]], Finished], name: str, command: str
) -> None:
    spoil, _, reason = FOLDERS[name]
    spoil(Path(shutil.copytree(whole, tmp_path / "model")))
    done = call(COMMANDS[command])
    if command == "doctor":
        assert done.code == 1
        (line,) = [line for line in done.stdout.splitlines() if "WRONG model.path" in line]
    else:
        assert done.code == 2, done
        (line,) = done.stderr.splitlines()
        assert done.stdout == ""
    assert reason in line
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["quantised", "attention that is scaled"])
@pytest.mark.parametrize("command", ["train", "eval", "check", "back", "slurm", "doctor"])
def test_a_checkpoint_of_a_bad_model(
    tmp_path: Path, whole: Path, call: Callable[[list[str]], Finished], name: str, command: str
) -> None:
    """Such as an earlier version has made of one."""
    spoil, _, reason = FOLDERS[name]
    hf_to_megatron(whole, tmp_path / "model", converter_layout(read_family(whole)), None, lambda _: None)
    spoil(tmp_path / "model" / "hf")
    sign(tmp_path / "model")
    done = call({**COMMANDS, "back": ["convert", "megatron-to-hf", "model", "out"]}[command])
    assert reason.removeprefix("model: ") in (done.stdout if command == "doctor" else done.stderr)
    assert done.code == (1 if command == "doctor" else 2)
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_the_embeddings(tmp_path: Path, whole: Path, call: Callable[[list[str]], Finished]) -> None:
    """Some programs write the one matrix under both names; every command takes that."""
    weights(lambda all: all.update({HEAD: all[EMBEDDING].clone()}))(Path(shutil.copytree(whole, tmp_path / "model")))
    for command in ("convert", "slurm", "plan"):
        assert call(COMMANDS[command]).code == 0
    assert call(["convert", "megatron-to-hf", "out", "back"]).code == 0
    assert (tmp_path / "back/model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()
    assert "WRONG model.path" not in call(COMMANDS["doctor"]).stdout


def test_config_json_with_a_mark(tmp_path: Path, whole: Path, call: Callable[[list[str]], Finished]) -> None:
    """Read as if it had none; a server that would read it itself is not started."""
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    for name in ("config.json", "generation_config.json"):
        if not (folder / name).exists():
            (folder / name).write_text("{}")
        marked(name)(folder)
    for command in ("convert", "slurm", "plan"):
        assert call(COMMANDS[command]).code == 0
    for argv in (COMMANDS["serve"], [*COMMANDS["train"], "rollout.engine=sglang"]):
        done = call(argv)
        assert done.code == 2
        assert "model/config.json: begins with a byte order mark" in done.stderr


FETCH = "hf download Qwen/Qwen3-0.6B --local-dir models/Qwen3-0.6B, then model.path=models/Qwen3-0.6B"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "eval"])
def test_a_name_on_the_hub_has_to_be_fetched_first(call: Callable[[list[str]], Finished], command: str) -> None:
    """But `aspo eval` fetches it into the Hub's cache; and the nodes of a job may have what this machine has not."""
    named = {"model.path=model": "model.path=Qwen/Qwen3-0.6B", "model": "Qwen/Qwen3-0.6B"}
    done = call([named.get(word, word) for word in COMMANDS[command]])
    if command == "doctor":
        assert f"-> {FETCH}" in done.stdout
        return
    first = f"model.path: there is no folder Qwen/Qwen3-0.6B (in {Path.cwd()}); a model on the Hub has to be here first"
    if command == "slurm":
        assert (done.code, done.stderr) == (0, f"warning: {first}: {FETCH}\n")
        return
    assert (done.code, done.stdout, done.stderr) == (2, "", f"error: {first}: {FETCH}\n")
