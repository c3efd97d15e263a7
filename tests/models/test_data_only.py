"""A model folder never brings code: what asks for some is refused by name, and no call of ours would follow it."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.errors import UserError
from aspo_megatron.models.family import read_family
from aspo_megatron.models.hf_config import transformers_config
from aspo_megatron.rollout.embedded.engine import EmbeddedEngine

from .folders import change_json, copy_of_tiny, the_line

Change = Callable[[Path], object]


def config(**fields: object) -> Change:
    return lambda folder: change_json(folder / "config.json", **fields)


def tokenizer_config(**fields: object) -> Change:
    return lambda folder: change_json(folder / "tokenizer_config.json", **fields)


def file(name: str, content: str = "") -> Change:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return write


KERNEL = "kernels-community/flash-attn"
CODE: dict[str, tuple[Change, str]] = {
    "auto_map": (config(auto_map={"AutoConfig": "own.OwnConfig"}), "needs code of its own"),
    "auto_map of a repository": (config(auto_map={"AutoModel": "a/b--own.LlamaModel"}), "needs code of its own"),
    "auto_map a list": (config(auto_map=["own.OwnConfig"]), "needs code of its own"),
    "auto_map of others": (config(auto_map={"AutoModelForCausalLM": "own.Qwen2ForCausalLM"}), "needs code of its own"),
    "kernel": (config(attn_implementation=KERNEL), f"attn_implementation is '{KERNEL}'"),
    "kernel at a revision": (config(attn_implementation=f"{KERNEL}@0123abcd"), "attn_implementation"),
    "kernel of a function": (config(attn_implementation="some-org/kernel:forward"), "attn_implementation"),
    "kernel, private name": (config(_attn_implementation="some-org/kernel"), "_attn_implementation is"),
    "kernel, internal name": (config(_attn_implementation_internal="some-org/kernel"), "_attn_implementation_internal"),
    "kernel by part": (config(attn_implementation={"": "sdpa", "text_config": "a/b"}), "attn_implementation is 'a/b'"),
    "kernel of a part": (config(text_config={"vision": [{"attn_implementation": "a/b"}]}), "attn_implementation"),
    "kernel, paged": (config(attn_implementation="paged|a/b"), "attn_implementation"),
    "kernel a number": (config(attn_implementation=5), "attn_implementation is 5"),
    "kernel for experts": (config(_experts_implementation="sonicmoe"), "_experts_implementation is 'sonicmoe'"),
    "another config": (config(configuration_files=["config.5.0.0.json"]), "configuration_files"),
    "other weights": (config(transformers_weights="adapter_model.bin"), "transformers_weights"),
    "layers that differ": (config(per_layer_config={"0": {"hidden_size": 1}}), "per_layer_config"),
    "other names": (config(attribute_map={"hidden_size": "vocab_size"}), "attribute_map"),
    "kernels in a list": (
        config(attn_implementation=["some-org/kernel"]),
        "attn_implementation is ['some-org/kernel']",
    ),
    "kernels for parts": (config(attn_implementation={"": "sdpa", "a": {"b": "c/d"}}), "implementation is {'b'"),
    "generation of its own": (config(custom_generate="a/b"), "generates by code"),
    "Python": (file("modeling_own.py"), "modeling_own.py: code"),
    "compiled Python": (file("own.pyc"), "own.pyc: code"),
    "a library": (file("kernel.so"), "kernel.so: code"),
    "generation in a folder": (file("custom_generate/generate.py"), "custom_generate: code"),
    "adapter": (file("adapter_config.json", '{"base_model_name_or_path": "a/b"}'), "adapter of another model"),
}


@pytest.mark.parametrize("name", CODE)
def test_a_folder_that_asks_for_code_is_refused(tmp_path: Path, name: str) -> None:
    change, words = CODE[name]
    folder = copy_of_tiny(tmp_path / "model")
    change(folder)
    with pytest.raises(UserError) as raised:
        read_family(folder)
    the_line(raised.value, str(folder), words)


TOKENIZERS: dict[str, tuple[Change, str]] = {
    "a class of its own": (tokenizer_config(tokenizer_class="OwnTokenizer"), "'OwnTokenizer' is not a tokenizer"),
    "with auto_map": (
        tokenizer_config(tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]}),
        "'OwnTokenizer' is not a tokenizer",
    ),
    "auto_map alone": (tokenizer_config(tokenizer_class=None, auto_map=["own.Own", "own.Own"]), "auto_map"),
    "named by config.json": (
        lambda folder: (tokenizer_config(tokenizer_class=None)(folder), config(tokenizer_class="Own")(folder)),
        "config.json: tokenizer_class 'Own'",
    ),
    "a model": (tokenizer_config(tokenizer_class="AutoModelForCausalLM"), "AutoModelForCausalLM"),
    "a model's class": (tokenizer_config(tokenizer_class="LlamaForCausalLM"), "LlamaForCausalLM"),
    "a function": (tokenizer_config(tokenizer_class="pipeline"), "pipeline"),
    "a module": (tokenizer_config(tokenizer_class="utils"), "utils"),
    "AutoTokenizer": (tokenizer_config(tokenizer_class="AutoTokenizer"), "AutoTokenizer"),
    "a private name": (tokenizer_config(tokenizer_class="__init__"), "__init__"),
    "a path": (tokenizer_config(tokenizer_class="own.OwnTokenizer"), "own.OwnTokenizer"),
    "a number": (tokenizer_config(tokenizer_class=5), "tokenizer_class 5"),
    "a list": (tokenizer_config(tokenizer_class=["LlamaTokenizer"]), "LlamaTokenizer"),
    "positional arguments": (tokenizer_config(init_inputs=["/etc/passwd"]), "init_inputs"),
    "a vocabulary elsewhere": (tokenizer_config(vocab_file="/etc/passwd"), "vocab_file names a file elsewhere"),
    "a tokenizer elsewhere": (tokenizer_config(tokenizer_file="/etc/../etc/passwd"), "tokenizer_file"),
    "GGUF": (tokenizer_config(gguf_file="model.gguf"), "gguf_file"),
    "a file's name that is none": (tokenizer_config(merges_file=[1]), "merges_file"),
    "versions elsewhere": (tokenizer_config(fast_tokenizer_files=["../tokenizer.5.0.0.json"]), "fast_tokenizer_files"),
    "versions a number": (tokenizer_config(fast_tokenizer_files=5), "fast_tokenizer_files"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_asks_for_code_or_for_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    change, words = TOKENIZERS[name]
    folder = copy_of_tiny(tmp_path / "model")
    change(folder)
    with pytest.raises(UserError) as raised:
        load_tokenizer(folder)
    the_line(raised.value, str(folder), words)


USUAL: dict[str, Change] = {
    "as it is": lambda folder: None,
    "another class of transformers": tokenizer_config(tokenizer_class="PreTrainedTokenizerFast"),
    "an older name": tokenizer_config(tokenizer_class="GPT2TokenizerFast"),
    "no class": tokenizer_config(tokenizer_class=None),
    "what older ones leave": tokenizer_config(
        special_tokens_map_file="/home/x/.cache/x", name_or_path="/home/x", tokenizer_file="/nowhere/tokenizer.json"
    ),
    "auto_map beside a known class": tokenizer_config(auto_map={"AutoTokenizer": ["x.Qwen2Tokenizer", None]}),
    "files that nobody reads": lambda folder: [
        file(name)(folder) for name in ("pytorch_model.bin", "preprocessor_config.json", "README.md", ".hidden.py")
    ],
}


@pytest.mark.parametrize("name", USUAL)
def test_what_published_folders_hold_is_read(tmp_path: Path, name: str) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    USUAL[name](folder)
    assert load_tokenizer(folder).decode(load_tokenizer(folder)("12 + 3")["input_ids"]) == "12 + 3"


@pytest.mark.parametrize("given", ["eager", "flash_attention_2", "flex_attention", None])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_the_engine_computes_attention_as_it_says_itself(tmp_path: Path, key: str, given: str | None) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    change_json(folder / "config.json", **{key: given})
    assert transformers_config(read_family(folder))._attn_implementation == "sdpa"
    assert transformers_config(read_family(folder), "eager")._attn_implementation == "eager"
    engine = EmbeddedEngine(folder, load_tokenizer(folder), torch.float32, torch.device("cpu"), 1024)
    assert engine._model.config._attn_implementation == "sdpa"


REPOSITORY = Path(__file__).parents[2]
SOURCES = [
    path
    for top in ("aspo_megatron", "benchmarks", "tools", "examples")
    for path in sorted((REPOSITORY / top).rglob("*.py"))
]


def calls(path: Path) -> Iterator[tuple[str, str, ast.Call]]:
    """Calls of the loading methods of transformers' classes: class, method, call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if (
                node.func.attr in ("from_pretrained", "from_config") and name != "AutoBridge"
            ):  # that is megatron-bridge's
                yield name, node.func.attr, node


def lacks(name: str, method: str, call: ast.Call) -> list[str]:
    """What a call should say and does not."""
    said = {keyword.arg: keyword.value for keyword in call.keywords}
    wanted = {"trust_remote_code": False}
    if method == "from_pretrained":
        wanted["local_files_only"] = True
    if method == "from_pretrained" and name.startswith("AutoModel") and "gguf_file" not in said:
        wanted["use_safetensors"] = True
    missing = [key for key, value in wanted.items() if getattr(said.get(key), "value", None) is not value]
    if name != "AutoTokenizer" and "attn_implementation" not in said:
        missing.append("attn_implementation")
    return missing


def test_every_call_that_loads_a_model_says_that_it_is_data() -> None:
    found = [(path, *call) for path in SOURCES for call in calls(path)]
    assert len(found) >= 5
    for path, name, method, call in found:
        assert lacks(name, method, call) == [], f"{path.relative_to(REPOSITORY)}:{call.lineno}"


@pytest.mark.parametrize("line", [
    "AutoTokenizer.from_pretrained(folder)",
    "AutoTokenizer.from_pretrained(folder, trust_remote_code=True, local_files_only=True)",
    "transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)",
    "AutoModelForCausalLM.from_config(config, trust_remote_code=False)",
    "AutoModelForCausalLM.from_pretrained(folder, attn_implementation='sdpa', trust_remote_code=False)",
    "GenerationConfig.from_pretrained(folder)",
])  # fmt: skip
def test_a_call_that_does_not_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "own.py").write_text(line)
    ((name, method, call),) = calls(tmp_path / "own.py")
    assert lacks(name, method, call)


def test_generation_config_is_read_as_data(tmp_path: Path) -> None:
    from aspo_megatron.rollout.stop_rule import end_of_sequence_ids

    folder = copy_of_tiny(tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [3, 4], "custom_generate": "a/b", "trust_remote_code": True}))
    assert end_of_sequence_ids(folder, tokenizer) == {0, 3, 4}
    for text in (
        "[]",
        "{",
        '{"eos_token_id": "a"}',
        '{"eos_token_id": [1, null, {}]}',
        '{"eos_token_id": true}',
        "\xff",
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(UserError) as raised:
            end_of_sequence_ids(folder, tokenizer)
        the_line(raised.value, str(path))
