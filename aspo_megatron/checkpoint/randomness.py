"""The random states of a rank: Python's, NumPy's, torch's, and megatron's for each kind of parallelism."""

from __future__ import annotations

import json
import random

import numpy as np
import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from safetensors import safe_open
from safetensors.torch import save

from aspo_megatron.errors import CheckpointError


def random_file(rank: int) -> str:
    """Name of a rank's file in a checkpoint."""
    return f"random-{rank:05d}.safetensors"


def capture() -> bytes:
    """All states of this process, as a safetensors file."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    states = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).view(np.int32).copy())}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    for name, state in get_cuda_rng_tracker().get_states().items():
        states[f"megatron.{name}"] = state
    told = {
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps([kind, int(position), int(has_gauss), float(gauss)]),
    }
    content: bytes = save({name: state.clone() for name, state in states.items()}, metadata=told)
    return content


def restore(path: str) -> None:
    """Put back what `capture` has written to the file `path`.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata()
            states = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, numbers, gauss = json.loads(told["python"])
        kind, position, has_gauss, gauss_value = json.loads(told["numpy"])
    except Exception as error:  # safetensors' own errors, and whatever a damaged file leads to
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    random.setstate((version, tuple(numbers), gauss))
    keys = states["numpy"].numpy().view(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss_value))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    tracked = {name.removeprefix("megatron."): state for name, state in states.items() if name.startswith("megatron.")}
    get_cuda_rng_tracker().set_states(tracked)
