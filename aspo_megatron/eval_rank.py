"""What one rank of `aspo eval` does: `python -m aspo_megatron.eval_rank CONFIG.yaml SIDE OUTPUT`.

SIDE says which problems of the configuration are asked: `train` (all of a problems file) or `heldout`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from aspo_megatron.checkpoint.hf import SafetensorsFolder
from aspo_megatron.config import RunConfig
from aspo_megatron.config_io import load_config
from aspo_megatron.inputs import read_inputs
from aspo_megatron.parallel.exchange import from_leader
from aspo_megatron.parallel.topology import process_grid
from aspo_megatron.rewards.pool import RewardPool
from aspo_megatron.rollout.embedded import EmbeddedEngine


def evaluate_checkpoint(config: RunConfig, side: str, output: Path | None) -> None:
    """Evaluate the model folder `model.path`; the leader prints the scores and writes every response to `output`."""
    inputs = read_inputs(config)
    with RewardPool(config.reward) as rewards, process_grid(config.parallel, config.platform, config.seed) as topology:
        from aspo_megatron.evaluate import evaluate

        problems = from_leader(inputs.train if side == "train" else inputs.heldout)
        dtype = getattr(torch, config.model.dtype)
        engine = EmbeddedEngine(
            config.model.path, inputs.tokenizer, dtype, topology.platform.device, config.rollout.max_batch_tokens
        )
        with SafetensorsFolder(config.model.path) as weights:
            engine.update_weights(((name, weights.read_whole(name)) for name in weights.names()), version=0)
        result = evaluate(
            engine,
            rewards,
            inputs.tokenizer,
            problems,
            config.eval,
            config.eval.sampling or config.rollout.sampling,
            config.seed,
            topology.rank,
            topology.world_size,
        )
        if topology.is_leader:
            asked = len(problems[: config.eval.max_problems])
            print(f"{asked} problems, {config.eval.samples} responses each")
            for name, value in result.metrics().items():
                print(f"{name.removeprefix('eval/'):>10}  {value:.1%}")
            if output:
                result.write(output)
                print(f"responses   {output}")


if __name__ == "__main__":
    evaluate_checkpoint(load_config(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]) if sys.argv[3] else None)
