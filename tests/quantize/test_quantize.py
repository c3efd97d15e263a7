"""`aspo quantize` from a model to a folder that transformers loads, with its report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from aspo_megatron.cli import app
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import CheckpointError, ConfigError, UserError
from aspo_megatron.inputs.read import read_inputs
from aspo_megatron.quantize.calibration import calibration_texts
from aspo_megatron.quantize.change import compare_accuracy, compare_log_probs

from .conftest import record

QUICK = ["--prompts", "12", "--problems", "10"]


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(app.app, ["quantize", *arguments])
    assert isinstance(result.exception, UserError)
    return str(result.exception)


def test_without_modelopt_it_says_what_to_install(run: Path, tmp_path: Path) -> None:
    tool = Path(__file__).parents[2] / "tools" / "quantize.py"
    without = "import runpy, sys; sys.modules['modelopt'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    argv = [sys.executable, "-c", without, str(tool), str(run / "hf"), str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nvidia-modelopt is not installed: pip install 'aspo-megatron[quantize]'\n"
    assert not list(tmp_path.iterdir())


def test_wrong_options_are_named(run: Path, tmp_path: Path) -> None:
    model, target = str(run / "hf"), str(tmp_path / "out")
    assert refusal(model, target, "--format", "int2") == "--format int2: must be one of fp8, int8, int4-awq, nvfp4"
    assert refusal(model, target, "--format", "int8", "--layout", "modelopt") == (
        "--layout modelopt: int8 is written as compressed-tensors"
    )


def test_bad_input_is_named_and_nothing_is_left(run: Path, tmp_path: Path) -> None:
    model, target = str(run / "hf"), str(tmp_path / "out")
    assert "there is no folder" in refusal(str(tmp_path / "missing"), target)
    lost = tmp_path / "a" / "b" / "model"
    lost.mkdir(parents=True)
    assert refusal(str(lost), target) == (
        f"{lost}: no config.yaml of its run in the folders above; give --config RUN/config.yaml"
    )
    assert "config.json" in refusal(str(lost), target, "--config", str(run / "config.yaml"))
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("")
    assert refusal(model, str(full)) == f"{full} exists already; choose another place or remove it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "full"]


def test_texts_are_recorded_responses_and_then_prompts(run: Path) -> None:
    inputs = read_inputs(load_config(run / "config.yaml"))
    first, second = inputs.train[:2]
    record(run, [(first.id, first.question, " 12"), (second.id, "changed", " 3"), (second.id, second.question, " 4")])
    texts = calibration_texts(run, inputs.train, inputs.tokenizer, 10)
    (run / "samples.jsonl").unlink()
    assert (len(texts.sequences), texts.responses) == (10, 2)
    decoded = [inputs.tokenizer.decode(ids) for ids in texts.sequences]
    assert decoded[:2] == [f"{first.question} = 12", f"{second.question} = 4"]
    assert texts.sequences[2:] == tuple(inputs.train[index * len(inputs.train) // 8].prompt_ids for index in range(8))
    assert calibration_texts(run, inputs.train, inputs.tokenizer, 10).responses == 0


def test_a_recorded_response_that_the_tokenizer_fails_with_is_one_line(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(run / "hf", tmp_path / "hf"))
    whole = json.loads((model / "tokenizer.json").read_text())
    whole["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    (model / "tokenizer.json").write_text(json.dumps(whole))
    inputs = read_inputs(load_config(run / "config.yaml", [f"model.path={model}"]))
    first, second = inputs.train[:2]
    record(run, [(first.id, first.question, " 12"), (second.id, second.question, "a" * 40 + "!")])
    with pytest.raises(ConfigError) as raised:
        calibration_texts(run, inputs.train, inputs.tokenizer, 10)
    (run / "samples.jsonl").unlink()
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{model}: the tokenizer fails: PanicException")
    assert f"at the recorded response to problem {second.id}" in line
    assert "panicked" not in capfd.readouterr().err


def test_figures_of_the_change() -> None:
    change = compare_log_probs(
        [torch.tensor([-1.0, -2.0]), torch.tensor([-0.5])], [torch.tensor([-1.0, -2.5]), torch.tensor([-0.25])]
    )
    assert (change.responses, change.tokens, change.mean, change.max) == (2, 3, 0.25, 0.5)
    # k3 = exp(d) - d - 1 for d = 0, -0.5, 0.25
    assert change.kl == pytest.approx((0.0 + 0.1065306597 + 0.0340254167) / 3, rel=1e-5)
    accuracy = compare_accuracy([1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0])
    assert (accuracy.original.value, accuracy.quantized.value, accuracy.difference.value) == (0.75, 0.5, -0.25)
    assert accuracy.difference.low == pytest.approx(-0.25 - 1.959964 * 0.5 / 2, abs=1e-6)


@pytest.mark.parametrize("name", ["fp8", "int8", "int4-awq"])
def test_transformers_computes_what_was_measured(run: Path, tmp_path: Path, name: str) -> None:
    from aspo_megatron.quantize.folder import read_back, write_model
    from aspo_megatron.quantize.formats import FORMATS
    from aspo_megatron.quantize.modelopt import quantized_layers
    from aspo_megatron.quantize.run import quantize_in_place

    inputs = read_inputs(load_config(run / "config.yaml"))
    model = AutoModelForCausalLM.from_pretrained(run / "hf", dtype=torch.float32).eval()
    ids = torch.tensor([inputs.heldout[0].prompt_ids])
    with torch.no_grad():
        original = torch.log_softmax(model(ids).logits, dim=-1)
        quantize_in_place(model, FORMATS[name], 32, calibration_texts(run, inputs.train, inputs.tokenizer, 12))
        measured = torch.log_softmax(model(ids).logits, dim=-1)
    (tmp_path / "out").mkdir()
    write_model(tmp_path / "out", model, FORMATS[name], "compressed-tensors", 32, run / "hf", inputs.family)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        served = torch.log_softmax(loaded(ids).logits, dim=-1)
    change = (measured - original).abs().max()
    assert 1e-4 < change < (2.0 if name == "int4-awq" else 0.5)
    # Of int8 activations transformers takes 1/127.5 of a token's largest for the step, SGLang and modelopt 1/127.
    assert (served - measured).abs().max() < (2.0 if name == "int8" else 0.02) * change
    for layer, module in quantized_layers(model).items():
        weight = loaded.get_submodule(layer).weight
        assert torch.allclose(weight, module.weight, rtol=0, atol=1e-6 * module.weight.abs().max().item())
        if name == "int8":
            inputs_of_layer = torch.randn(1, 3, module.in_features, generator=torch.Generator().manual_seed(0))
            step = inputs_of_layer.abs().amax(dim=-1, keepdim=True) / 127
            rounded = (inputs_of_layer / step).round() * step
            assert torch.allclose(module.input_quantizer(inputs_of_layer), rounded, rtol=0, atol=1e-6)

    # Another weight than the measured one is an error.
    weights = {layer: module.weight.clone() for layer, module in quantized_layers(model).items()}
    assert read_back(tmp_path / "out", weights) < 1e-6
    weights["model.layers.1.mlp.up_proj"][0, 0] += 0.01
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight, read back, differs by"):
        read_back(tmp_path / "out", weights)


@pytest.mark.parametrize(
    ("name", "kl", "share"), [("fp8", 0.05, 0.45), ("int8", 0.05, 0.45), ("int4-awq", 1.0, 0.4), ("nvfp4", 1.0, 0.4)]
)
def test_the_command_writes_a_folder_and_its_report(
    run: Path, tmp_path: Path, name: str, kl: float, share: float
) -> None:
    target = tmp_path / "out"
    target.mkdir()  # empty: may be filled
    format_name = [] if name == "fp8" else ["--format", name]
    result = CliRunner().invoke(app.app, ["quantize", str(run / "hf"), str(target), *format_name, *QUICK])
    assert result.exception is None, result.exception
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in target.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "quantization.json", "tokenizer.json",
        "tokenizer_config.json", *(["hf_quant_config.json"] if name == "nvfp4" else []),
    }  # fmt: skip
    report = json.loads((target / "quantization.json").read_text())
    assert report["format"] == name
    assert report["quantized"] == dict.fromkeys(
        [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")], 2
    )
    assert set(report["kept"]) == {
        "model.embed_tokens.weight", "input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight",
    }  # fmt: skip
    assert report["accuracy"]["problems"] == report["log_probs"]["responses"] == 10
    assert report["calibration"]["texts"] == 12
    assert 0 < report["log_probs"]["mean"] < report["log_probs"]["max"] < 3
    assert report["log_probs"]["kl"] < kl
    assert report["largest_difference"] < 1e-6
    assert report["bytes_before"] == 4 * sum(t.numel() for t in load_file(run / "hf" / "model.safetensors").values())
    assert report["bytes_after"] == (target / "model.safetensors").stat().st_size < share * report["bytes_before"]
    assert "accuracy, 10 held-out problems" in result.stdout
    assert result.stdout.splitlines()[-1] == f"{target}: written"
    again = refusal(str(target), str(tmp_path / "again"), "--config", str(run / "config.yaml"))
    assert again == f"{target}: its weights are quantised; give the folder that it was made from"
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.decode([5]) == AutoTokenizer.from_pretrained(run / "hf").decode([5])
    if name == "nvfp4":  # whose layout transformers does not know
        said = json.loads((target / "hf_quant_config.json").read_text())["quantization"]
        assert (said["quant_algo"], said["group_size"]) == ("NVFP4", 16)
        return
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    with torch.no_grad():
        assert model(torch.tensor([[5, 6, 7]])).logits.isfinite().all()


def test_modelopts_own_layout_has_the_same_numbers(run: Path, tmp_path: Path) -> None:
    for layout in ("compressed-tensors", "modelopt"):
        arguments = [str(run / "hf"), str(tmp_path / layout), "--layout", layout, *QUICK]
        result = CliRunner().invoke(app.app, ["quantize", *arguments])
        assert result.exception is None, result.exception
    one, other = (load_file(tmp_path / layout / "model.safetensors") for layout in ("compressed-tensors", "modelopt"))
    assert set(one) == set(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor.float().flatten(), other[name].float().flatten()), name
    said = json.loads((tmp_path / "modelopt" / "hf_quant_config.json").read_text())["quantization"]
    assert said["quant_algo"] == "FP8"
    assert "lm_head" in said["exclude_modules"]


def test_a_megatron_checkpoint_gives_the_same(run: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    result = CliRunner().invoke(app.app, ["convert", "hf-to-megatron", str(run / "hf"), str(checkpoint), "--tp", "2"])
    assert result.exception is None, result.exception
    for name, model in (("one", run / "hf"), ("other", checkpoint)):
        arguments = [str(model), str(tmp_path / name), "--config", str(run / "config.yaml"), "--format", "int8", *QUICK]
        result = CliRunner().invoke(app.app, ["quantize", *arguments])
        assert result.exception is None, result.exception
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert set(one) == set(other)


def test_models_with_experts_are_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    from tiny_models import qwen3_moe_folder

    model = qwen3_moe_folder(tmp_path / "model", vocab_size=302)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(run / "hf" / name, model / name)
    with pytest.raises(ConfigError, match="qwen3_moe: models with experts cannot be quantised"):
        raise ConfigError(refusal(str(model), str(tmp_path / "out"), "--config", str(run / "config.yaml")))
    assert not (tmp_path / "out").exists()
