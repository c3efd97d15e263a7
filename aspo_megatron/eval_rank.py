"""What one rank of `aspo eval` does: `python -m aspo_megatron.eval_rank CONFIG.yaml SIDE OUTPUT`.

SIDE says which problems of the configuration are asked: `train` (all of a problems file) or `heldout`.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from aspo_megatron.checkpoint.hf import hf_shapes
from aspo_megatron.config import RunConfig
from aspo_megatron.config_io import load_config
from aspo_megatron.inputs import open_weights, read_inputs
from aspo_megatron.parallel.exchange import from_leader
from aspo_megatron.parallel.topology import process_grid
from aspo_megatron.rewards.pool import RewardPool
from aspo_megatron.rollout.build import engine_of, own_servers


def evaluate_checkpoint(config: RunConfig, side: str, output: Path | None) -> None:
    """Evaluate the model folder `model.path`; the leader prints the scores and writes every response to `output`."""
    inputs = read_inputs(config)
    with (
        RewardPool(config.reward) as rewards,
        process_grid(config.parallel, config.platform, config.seed) as topology,
        ExitStack() as stack,
    ):
        from aspo_megatron.evaluate import evaluate

        problems = from_leader(inputs.train if side == "train" else inputs.heldout)
        device = topology.platform.device
        servers = stack.enter_context(own_servers(config, device, print))
        engine = stack.enter_context(engine_of(config, inputs.family, inputs.tokenizer, device, servers, print))
        weights = open_weights(config, inputs.family)
        engine.update_weights(((name, weights.read_whole(name)) for name in hf_shapes(config.model.path)), version=0)
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
