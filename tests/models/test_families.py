"""Families are found by their files, and a walk over a table gives every parameter once."""

from __future__ import annotations

from pathlib import Path

import pytest

from aspo_megatron.errors import ConfigError
from aspo_megatron.models import families
from aspo_megatron.models.config_file import ConfigFields
from aspo_megatron.models.family import architectures, read_family
from aspo_megatron.models.mapping import each_parameter, exported, hf_sizes

from .folders import BASE, MOE, with_config

TOY = """
from aspo_megatron.models.architecture import Architecture
from aspo_megatron.models.families import qwen3

FAMILY = Architecture(model_types=("toy", "toy_2"), rows=qwen3.FAMILY.rows, qk_norm=True)
"""


def test_a_file_in_the_folder_is_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_config(tmp_path / "model", {**BASE, "model_type": "toy_2"})
    known = ", ".join(sorted(architectures()))
    with pytest.raises(ConfigError, match=f"model_type 'toy_2' is not supported; supported: {known}$"):
        read_family(model)
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    family = read_family(model)
    assert (family.name, family.qk_norm, family.qkv_bias, family.num_experts) == ("toy_2", True, False, 0)
    assert "model.layers.1.self_attn.q_norm.weight" in hf_sizes(family.rows, family.shape(tp=1))
    assert {"toy", "toy_2", "llama"} < architectures().keys()


@pytest.mark.parametrize("name", architectures())
def test_what_a_family_says_is_what_its_rows_have(name: str) -> None:
    said = architectures()[name]
    names = {row.megatron.rpartition("layers.{layer}.")[2] for row in said.rows}
    assert said.qkv_bias == ("self_attention.linear_qkv.bias" in names)
    assert said.qk_norm == ("self_attention.q_layernorm.weight" in names)
    assert said.experts == any(row.per_expert for row in said.rows) == ("mlp.linear_fc1.weight" not in names)


HARMLESS = {
    "attention_dropout",  # no layer here has dropout
    "output_router_logits",
    "pretraining_tp",
    "router_aux_loss_coef",  # of a loss that transformers would add; here it is a setting
    "use_cache",
}
"""Fields of a config.json that change nothing which is computed here."""
BY_USE_SLIDING_WINDOW = {"max_window_layers", "sliding_window"}
"""Fields that count with `use_sliding_window` alone, which is refused. A family without that switch has the window."""


@pytest.mark.parametrize("name", architectures())
def test_every_field_of_a_family_is_read_or_harmless(name: str) -> None:
    """A window, a softcap or a multiplier that nobody reads would be left out without a word."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    own = CONFIG_MAPPING[name]().to_dict().keys() - PretrainedConfig().to_dict().keys()
    harmless = HARMLESS | BY_USE_SLIDING_WINDOW if "use_sliding_window" in own else HARMLESS
    unread = sorted(own - ConfigFields.model_fields.keys() - harmless)
    assert unread == [], f"{name}: implement or refuse these (refuse_unsupported), or say in HARMLESS why not"


def test_each_parameter_once(tmp_path: Path) -> None:
    family = read_family(with_config(tmp_path / "model", {**MOE, "tie_word_embeddings": True}))
    walked = list(each_parameter(family.rows, [4, 2], [7]))
    assert [(row.megatron.rpartition(".layers.")[0], layer) for row, layer, _ in walked if not row.per_layer] == [
        ("", 0), ("", 0), ("", 0)
    ]  # fmt: skip
    assert [(layer, expert) for row, layer, expert in walked if row.per_expert] == [(4, 7), (2, 7)] * 2
    assert [(layer, expert) for row, layer, expert in walked if row.per_layer and not row.per_expert] == [
        (4, 0), (2, 0)
    ] * 7  # fmt: skip
    names = [
        name
        for row, *place in each_parameter(exported(family.rows), range(2), range(8))
        for name in row.hf_names(*place)
    ]
    assert names == list(hf_sizes(family.rows, family.shape(tp=1)))
    assert len(set(names)) == len(names)
