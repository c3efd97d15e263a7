"""Weights get to real servers bit for bit, by each way; servers that have others than the rest are found out."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from aspo_megatron.checkpoint.hf.folder import write_folder
from aspo_megatron.errors import UserError
from aspo_megatron.models.family import read_family
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.rollout.sglang.local_servers import LocalServers
from aspo_megatron.rollout.weight_sync import shared_bucket
from aspo_megatron.rollout.weight_sync.checksums import weight_checksums
from aspo_megatron.rollout.weight_sync.session import Transport
from aspo_megatron.rollout.weight_sync.shared_bucket import SharedBucket, has_room
from aspo_megatron.rollout.weight_sync.transports import DiskTransport, DistributedTransport, TensorTransport

from .conftest import RAGGED, Policy, sglang_engine


def on_disk(policy: Policy, folder: Path) -> Transport:
    def write(to: Path, tensors: Iterator[tuple[str, Tensor]]) -> None:
        config = read_family(policy.folder).hf_config | {"dtype": "float32"}
        write_folder(to, tensors, config, tokenizer_from=policy.folder, replace=True)

    return DiskTransport(write, folder / "sync", 60.0)


WAYS: dict[str, Callable[[Policy, Path], Transport]] = {
    "distributed": lambda policy, folder: DistributedTransport("gloo", 1, 60.0),
    "disk": on_disk,
    "tensor, shared memory": lambda policy, folder: TensorTransport(1, 60.0),
    "tensor, by value": lambda policy, folder: TensorTransport(1, 60.0, shares=False),
}


def other_weights(policy: Policy, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: t + 0.05 * torch.randn(t.shape, generator=generator) for name, t in policy.weights.items()}


def as_served(weights: dict[str, Tensor]) -> dict[str, str]:
    """Checksums of the tensors that SGLang makes of these: the start of the SHA-256 of their bytes.

    On a CPU it fills the vocabulary up to a multiple of 64, and the feed-forward layer's width to one of 32.
    """
    fused: dict[str, list[Tensor]] = {}
    for name, tensor in weights.items():  # the order of the parts is that of the model
        dim, multiple = (1, 32) if "down_proj" in name else (0, 32 if "mlp" in name else 64)
        padded = tensor
        if "mlp" in name or "embed_tokens" in name or "lm_head" in name:
            size = list(tensor.shape)
            size[dim] = -size[dim] % multiple
            padded = torch.cat((tensor, torch.zeros(size)), dim=dim)
        own = re.sub(r"(q|k|v)_proj", "qkv_proj", name)
        fused.setdefault(re.sub(r"(gate|up)_proj", "gate_up_proj", own), []).append(padded)
    return {name: hashlib.sha256(torch.cat(parts).numpy().tobytes()).hexdigest()[:16] for name, parts in fused.items()}


def served(engine: SGLangEngine) -> list[dict[str, str]]:
    """The checksums of each server's weights, which it computes itself."""

    async def ask() -> list[dict[str, str]]:
        return [(await weight_checksums(client, 60.0))[0] for client in engine._pool.clients]

    return engine._loop.run(ask())


@pytest.mark.sglang
@pytest.mark.timeout(400)
@pytest.mark.parametrize("policy", ["llama", "qwen2"], indirect=True)
@pytest.mark.parametrize("way", list(WAYS))
def test_bit_for_bit(policy: Policy, sglang_servers: dict[str, LocalServers], way: str, tmp_path: Path) -> None:
    engine = sglang_engine(policy, sglang_servers[policy.family].urls, WAYS[way](policy, tmp_path))
    try:
        for version, seed in ((8, 1), (9, 2)):
            weights = other_weights(policy, seed)
            metrics = engine.update_weights(weights.items(), version)
            assert metrics["sync/bytes"] == sum(tensor.nbytes for tensor in weights.values())
            expected = as_served(weights)
            for found in served(engine):
                assert found == expected
    finally:
        engine.close()


@pytest.mark.sglang
@pytest.mark.timeout(400)
@pytest.mark.parametrize("policy", ["llama"], indirect=True)
def test_a_server_with_other_weights_than_the_rest_is_found_out(
    policy: Policy, sglang_servers: dict[str, LocalServers]
) -> None:
    urls = sglang_servers["llama"].urls
    both, one = sglang_engine(policy, urls), sglang_engine(policy, urls[1:])
    try:
        both.update_weights(policy.weights.items(), version=8)
        assert len(both.prompt_log_probs(RAGGED[4])) == 2
        # One bit of one number: no probe would show it.
        name = "model.layers.1.mlp.down_proj.weight"
        changed = policy.weights[name].clone()
        changed.view(torch.int32)[3, 5] ^= 1
        one.update_weights((policy.weights | {name: changed}).items(), version=8)
        with pytest.raises(UserError, match=r"have other weights after the same sync, .*layers\.1\.mlp\.down_proj"):
            both.prompt_log_probs(RAGGED[4])
    finally:
        both.close()
        one.close()


def test_memory_is_shared_only_where_there_is_room() -> None:
    assert has_room([("small", torch.zeros(10))])
    assert not has_room([("vast", torch.zeros(1).expand(1 << 42))])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512,expandable_segments:True"),
    ],
)
def test_memory_of_a_gpu_that_is_shared_is_in_no_expandable_segment(
    monkeypatch: pytest.MonkeyPatch, name: str, settings: str
) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setenv(name, settings)
    order: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", order.append)
    monkeypatch.setattr(torch, "empty", lambda *size, **options: order.append(f"allocate on {options['device']}"))
    shared_bucket._shared_bytes(8, torch.device("cuda"))
    assert order == [settings.replace("True", "False"), "allocate on cuda", settings]


def test_a_shared_bucket_is_read_where_it_lies_and_goes_with_its_last_user() -> None:
    def files() -> set[Path]:
        return {path for path in Path("/dev/shm").iterdir() if path.name.startswith(f"torch_{os.getpid()}_")}

    before = files()
    tensors = {"half": torch.ones(3, dtype=torch.bfloat16), "whole": torch.arange(5.0).reshape(5, 1).t()}
    bucket = SharedBucket(list(tensors.items()), on_gpu=False)
    (file,) = files() - before
    assert file.stat().st_mode & 0o077 == 0  # nobody else's
    loaded = pickle.loads(bucket.pickled())
    flat = loaded["flattened_tensor"]
    for part in loaded["metadata"]:
        assert part.start_idx % part.dtype.itemsize == 0
        assert torch.equal(flat[part.start_idx : part.end_idx].view(part.dtype).view(part.shape), tensors[part.name])
    bucket._flat[0] += 1
    assert torch.equal(flat, bucket._flat)
    del bucket
    assert file.exists()
    del flat, loaded
    assert not file.exists()
