"""One rank in a process of its own: `python -m aspo_megatron.simulation CONFIG RANK GPU MEMORY RESULT`.

`aspo plan --simulate` starts it. CONFIG is a configuration whose `model.path` has a config.json; the figures go to
RESULT as JSON. MEMORY is the GPU's, in bytes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from aspo_megatron.config.io import load_config
from aspo_megatron.errors import UserError
from aspo_megatron.launch.rank import die_with_parent
from aspo_megatron.models.family import read_family
from aspo_megatron.plan.hardware import GPUS


def main(config: str, rank: str, gpu: str, memory: str, result: str) -> None:
    """Simulate, and write the figures."""
    import torch

    from aspo_megatron.simulation.run import simulate

    torch.set_num_threads(1)
    run = load_config(Path(config))
    on = replace(next(each for each in GPUS if gpu.startswith(each.name)), name=gpu, memory=int(memory))
    figures = simulate(run, read_family(run.model.path), int(rank), on)
    Path(result).write_text(json.dumps(figures.as_json()), encoding="utf-8")


if __name__ == "__main__":
    die_with_parent()
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
