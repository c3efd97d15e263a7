"""Random starting weights: a matter of the seed and the tensor's name, not of the layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aspo_megatron.checkpoint.hf.folder import RandomTensors, hf_shapes

SHAPES = {
    "model.embed_tokens.weight": (300, 64),
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.1.self_attn.q_proj.weight": (64, 64),
    "model.layers.0.self_attn.q_proj.bias": (64,),
    "model.norm.weight": (64,),
}


@pytest.mark.parametrize("name", SHAPES)
def test_slices_are_those_of_the_whole(name: str) -> None:
    whole = RandomTensors(SHAPES, 0.02, seed=3).read_whole(name)
    assert whole.shape == SHAPES[name]
    assert whole.dtype == torch.float32
    for dim in range(whole.dim()):
        parts = [RandomTensors(SHAPES, 0.02, seed=3).read(name, dim, start, start + 16) for start in range(0, 64, 16)]
        assert torch.equal(torch.cat(parts, dim), whole.narrow(dim, 0, 64))


def test_the_order_of_reading_and_the_global_seed_do_not_matter() -> None:
    first, second = RandomTensors(SHAPES, 0.02, seed=3), RandomTensors(SHAPES, 0.02, seed=3)
    torch.manual_seed(1)
    one = {name: first.read_whole(name) for name in SHAPES}
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = {name: second.read_whole(name) for name in reversed(SHAPES)}
    assert all(torch.equal(one[name], other[name]) for name in SHAPES)
    assert torch.equal(torch.get_rng_state(), state)


def test_values() -> None:
    source = RandomTensors(SHAPES, 0.02, seed=3)
    embedding = source.read_whole("model.embed_tokens.weight")
    assert embedding.std().item() == pytest.approx(0.02, rel=0.05)
    assert embedding.mean().item() == pytest.approx(0.0, abs=0.001)
    assert torch.equal(source.read_whole("model.norm.weight"), torch.ones(64))
    assert torch.equal(source.read_whole("model.layers.0.self_attn.q_proj.bias"), torch.zeros(64))


def test_seeds_and_names_differ() -> None:
    name, twin = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    source = RandomTensors(SHAPES, 0.02, seed=3)
    assert not torch.equal(source.read_whole(name), source.read_whole(twin))
    assert not torch.equal(source.read_whole(name), RandomTensors(SHAPES, 0.02, seed=4).read_whole(name))


def test_every_tensor_of_a_config_can_be_drawn(pristine: Path) -> None:
    shapes = hf_shapes(pristine)
    source = RandomTensors(shapes, 0.02, seed=0)
    assert all(source.read_whole(name).shape == shape for name, shape in shapes.items())
